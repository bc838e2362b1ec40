//! The programs that people log in with. Each takes nothing but what jit-broker printed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::desk::Desk;
use crate::world::Done;

/// What jit-broker printed for one role: a person has it in a shell, a file or a form, and keeps it.
pub struct Printed {
    pub psql: String,
    pub uri: String,
    pub jdbc: String,
    pub form: String,
    pub env: String,
    pub json: String,
}

impl Printed {
    #[track_caller]
    pub fn take(desk: &Desk, role: &str) -> Self {
        let connect = |what: &str| desk.told(&format!("jit-broker connect db-prod --role {role} --for {what}"));
        let env = |shell: &str| desk.told(&format!("jit-broker env db-prod --role {role} --shell {shell}"));
        let form = connect("dbeaver");
        assert_eq!(form, connect("datagrip"), "both have the same fields");
        assert_eq!(Self::field(&form, "URL"), connect("jdbc"));
        Self {
            form,
            psql: connect("psql"),
            uri: connect("uri"),
            jdbc: connect("jdbc"),
            env: env("sh"),
            json: env("json"),
        }
    }

    /// A field of the forms of DBeaver and DataGrip.
    #[track_caller]
    pub fn field(text: &str, name: &str) -> String {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().to_owned()
    }
}

/// A file of the clients that `make clients` installs.
fn installed(path: &str, package: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients").join(path);
    assert!(path.exists(), "{package} is not installed ({}): make clients", path.display());
    path
}

fn here(name: &str) -> String {
    format!("{}/tests/it/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

const JDBC: &str = "/usr/share/java/postgresql.jar";

/// Compiled once: the launcher of sources takes two seconds each time.
fn java() -> String {
    static CLASSES: OnceLock<PathBuf> = OnceLock::new();
    let classes = CLASSES.get_or_init(|| {
        assert!(
            Path::new(JDBC).exists(),
            "{JDBC} is missing: apt-get install libpostgresql-jdbc-java, or make clients"
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("classes");
        let javac = Command::new("javac").arg("-d").arg(&folder).arg(here("Query.java")).output();
        Done::from(javac.expect("javac is missing: apt-get install default-jdk-headless, or make clients")).ok();
        folder
    });
    format!("java -Xshare:auto -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp {JDBC}:'{}' Query", classes.display())
}

fn python() -> String {
    let folder = installed("python/psycopg", "the Python package psycopg[binary]");
    format!("PYTHONPATH='{}' python3 {}", folder.parent().unwrap().display(), here("query.py"))
}

fn node() -> String {
    let folder = installed("node/node_modules/pg", "the npm package pg");
    format!("NODE_PATH='{}' node {}", folder.parent().unwrap().display(), here("query.js"))
}

const SQL: &str = "-XAtc 'select current_user, count(*) from notes'";

/// A client and the line that it is used by.
pub struct Client {
    pub name: &'static str,
    pub line: String,
}

/// Runs all, some at a time: most of them only start.
pub fn run(desk: &Desk, clients: &[Client]) -> Vec<Done> {
    let lanes: Vec<Vec<Done>> = std::thread::scope(|scope| {
        let lane = |lane: &'static usize| {
            let mine = clients.iter().skip(*lane).step_by(LANES.len());
            scope.spawn(move || mine.map(|client| desk.run("alice", &client.line)).collect())
        };
        let begun: Vec<_> = LANES.iter().map(lane).collect();
        begun.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let mut lanes: Vec<_> = lanes.into_iter().map(Vec::into_iter).collect();
    (0..clients.len()).map(|at| lanes[at % LANES.len()].next().unwrap()).collect()
}

const LANES: [usize; 3] = [0, 1, 2];

/// Every way in that a shell can start. `exec` asks the broker first, so it is not among them.
pub fn all(desk: &Desk, printed: &Printed) -> Vec<Client> {
    let eval = format!("eval '{}'", printed.env.replace('\'', "'\\''"));
    let folder = "PGSERVICEFILE=jit/run/db/pg_service.conf";
    let password = desk.auth == jit_broker::domain::database::Auth::Password;
    let form = |text: &str, password_field: bool| {
        let field = |name| Printed::field(text, name);
        let url = format!("jdbc:postgresql://{}:{}/{}", field("Host"), field("Port"), field("Database"));
        let mut line = format!("{} '{url}' user='{}' sslmode='{}'", java(), field("User"), field("SSL mode"));
        line += &format!(" sslrootcert='{}'", field("CA file"));
        if password_field {
            let file = field("Password").strip_prefix("in ").unwrap().split(" (").next().unwrap().to_owned();
            line += &format!(" password=\"$(sed 's/.*://' '{file}')\"");
        } else {
            line += &format!(" sslcert='{}' sslkey='{}'", field("Client cert"), field("Client key"));
        }
        line
    };
    let mut all = vec![
        ("psql, the line of connect", format!("{} {SQL}", printed.psql)),
        ("psql, the URI", format!("psql '{}' {SQL}", printed.uri)),
        ("psql, the environment", format!("{eval} && psql {SQL}")),
        ("psql, the service entry", format!("{folder} psql service=db-prod {SQL}")),
        ("psycopg, the URI", format!("{} '{}'", python(), printed.uri)),
        ("psycopg, the environment", format!("{eval} && {}", python())),
        ("psycopg, the service entry", format!("{folder} {} service=db-prod", python())),
        ("node-postgres, the environment", format!("{eval} && {}", node())),
        ("JDBC, the form", form(&printed.form, password)),
    ];
    if password {
        all.push(("JDBC, the URL in the environment", format!("{eval} && {} '{}'", java(), printed.jdbc)));
    } else {
        all.push(("JDBC, the URL alone", format!("{} '{}'", java(), printed.jdbc)));
        all.push(("node-postgres, the URI alone", format!("{} '{}'", node(), printed.uri)));
    }
    all.into_iter().map(|(name, line)| Client { name, line }).collect()
}
