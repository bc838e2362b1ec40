//! The database of `dev`: a PostgreSQL of its own, with a target for it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::broken;
use crate::clock::random16;
use crate::daemon::postgres::{HBA_CERT, HBA_PASSWORD, Plan, Server};
use crate::domain::bundle::BundleText;
use crate::domain::database::Auth;
use crate::domain::refusal::Refusal;
use crate::signer::keys::write_new;

/// The name of the target that is a database.
pub const DB_TARGET: &str = "db-prod";
/// The database on it.
pub const DATABASE: &str = "app";
/// The file with the secret of the account that makes accounts, in the broker's folder.
pub const SECRET_FILE: &str = "db-prod-admin";

/// What people work with: a role that may write one table.
const SCHEMA: &str = "CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL);\n\
     INSERT INTO notes (text) VALUES ('the first'), ('the second');\n\
     CREATE ROLE app_writer NOLOGIN;\n\
     GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO app_writer;\n";

/// Starts the server, fills its database, and tells the broker's configuration of it; the broker must not run yet.
///
/// # Errors
/// What is missing; see [`Server::start`].
pub fn start(broker: &Path, ca_dir: &Path, auth: Auth, now: i64, conf: &str) -> Result<Server, Refusal> {
    let clients = ca_dir.join("x509_client.crt");
    let client_ca_pem = fs::read_to_string(&clients).map_err(|e| broken(&clients.display().to_string(), e))?;
    let password = data_encoding::HEXLOWER.encode(&random16());
    let hba = match auth {
        Auth::Cert => HBA_CERT,
        Auth::Password => HBA_PASSWORD,
    };
    let plan = Plan { dir: broker, hba, client_ca_pem: &client_ca_pem, admin_password: &password, conf, now };
    let server = Server::start(&plan)?;
    server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    server.sql(DATABASE, SCHEMA)?;
    write_new(&broker.join(SECRET_FILE), password.as_bytes())?;
    configure(broker, server.port)?;
    Ok(server)
}

/// Writes where the secret is, and that it goes to this server alone.
fn configure(broker: &Path, port: u16) -> Result<(), Refusal> {
    let path = broker.join("jit-broker.toml");
    let failed = |e: std::io::Error| broken(&path.display().to_string(), e);
    let mut text = fs::read_to_string(&path).map_err(failed)?;
    let line =
        format!("\n[secrets]\n{SECRET_FILE} = {{ from = \"file:{SECRET_FILE}\", for = \"127.0.0.1:{port}\" }}\n");
    text.push_str(&line);
    crate::signer::keys::replace(&path, text.as_bytes(), 0o600)
}

/// Adds the database to a bundle: reading is automatic, and for writing somebody else agrees.
pub fn with_database(mut text: BundleText, auth: Auth, port: u16, ca_pem: &str) -> BundleText {
    let files = &mut text.files;
    let targets = files.entry("targets.toml".to_owned()).or_default();
    let _ = write!(
        targets,
        "\n[[target]]\nname = \"{DB_TARGET}\"\nkind = \"postgres\"\naddress = \"127.0.0.1:{port}\"\n\
         database = \"{DATABASE}\"\nlabels = {{ env = \"prod\" }}\nmode = \"direct\"\nauth = \"{}\"\n\
         admin = \"credential:{SECRET_FILE}\"\ntls = {{ ca = \"db-ca.crt\", name = \"localhost\" }}\n\
         [target.roles.ro]\nmember_of = [\"pg_read_all_data\"]\nread_only = true\nstatement_timeout = \"60s\"\n\
         narrower_than = [\"rw\"]\n[target.roles.rw]\nmember_of = [\"app_writer\"]\n",
        auth.word()
    );
    files.entry("policy.toml".to_owned()).or_default().push_str(
        "\n[[rule]]\nid = \"prod-db-read\"\nwho = [\"group:backend\"]\ntargets = { kind = \"postgres\" }\nroles = [\"ro\"]\n\
         max = \"1h\"\nrecord = \"off\"\nauto = true\n\n\
         [[rule]]\nid = \"prod-db-write\"\nwho = [\"group:backend\"]\n\
         targets = { kind = \"postgres\", labels = { env = \"prod\" } }\nroles = [\"rw\"]\nmax = \"1h\"\nrecord = \"off\"\n\
         reason = { min_chars = 8 }\n  [[rule.step]]\n  name = \"peer\"\n  need = 1\n  from = [\"group:leads\"]\n",
    );
    files.insert("db-ca.crt".to_owned(), ca_pem.to_owned());
    text
}
