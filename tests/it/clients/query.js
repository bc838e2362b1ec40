// Logs in with what jit-broker printed: a URI as the argument, or the environment. node-postgres.
const { Client } = require("pg");

const client = new Client({ connectionString: process.argv[2] ?? process.env.DATABASE_URL });
const fail = (error) => {
  console.error(error.code ?? "", error.message);
  process.exit(1);
};
client.on("error", fail);
client
  .connect()
  .then(() => client.query({ text: "select current_user, count(*) from notes", rowMode: "array" }))
  .then((result) => {
    console.log(result.rows[0].join("|"));
    return client.end();
  })
  .catch(fail);
