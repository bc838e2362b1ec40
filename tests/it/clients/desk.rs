//! A served broker with a database whose accounts have certificates or passwords; people who type.

use std::path::Path;
use std::process::{Command, Stdio};

use jit_broker::clock::wall_s;
use jit_broker::daemon::dev::bundle;
use jit_broker::daemon::dev::database::{start, with_database};
use jit_broker::daemon::postgres::Server;
use jit_broker::domain::database::Auth;
use jit_broker::settings::Settings;
use serde_json::Value;

use crate::served::{PROGRAM, Served};
use crate::world::Done;

/// The world of these tests.
pub struct Desk {
    pub served: Served,
    pub server: Server,
    pub auth: Auth,
}

impl Desk {
    pub fn start(auth: Auth, conf: &str) -> Self {
        let mut served = Served::init();
        let ca_dir = Settings::read(&served.config()).unwrap().ca_dir;
        let server = start(&served.broker_dir(), &ca_dir, auth, wall_s(), conf).unwrap();
        served.serve();
        let text = bundle(&served.alice.key(), &served.bob.key(), "deploy", 22);
        let text = with_database(text, auth, server.port, &server.ca_pem);
        let folder = served.dir.join("bundle");
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in &text.files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        served.sign_in("root-admin");
        served.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
        served.sign_in("alice");
        served.sign_in("bob");
        Self { served, server, auth }
    }

    /// A person's shell; what it starts finds nothing of a PostgreSQL client of ours.
    pub fn shell(&self, who: &str, line: &str) -> Command {
        let home = self.served.dir.join(who);
        let path = format!("{}:{}", Path::new(PROGRAM).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&home).env("HOME", &home).env("PATH", path);
        command.env("JIT_BROKER_HOME", home.join("jit")).env("JIT_BROKER_NO_INPUT", "1");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
            command.env_remove(name);
        }
        command.env_remove("DATABASE_URL").env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    pub fn run(&self, who: &str, line: &str) -> Done {
        self.shell(who, line).output().unwrap().into()
    }

    /// One line of what alice is told.
    #[track_caller]
    pub fn told(&self, line: &str) -> String {
        self.run("alice", line).ok().trim_end().to_owned()
    }

    /// Alice asks for writing, bob agrees; gives the grant.
    #[track_caller]
    pub fn writing(&self, for_: &str) -> String {
        let line = format!("jit-broker -o json request db-prod --role rw --for {for_} --reason 'mend rows' --no-wait");
        let id = self.run("alice", &line).json()["id"].as_str().unwrap().to_owned();
        let after = self.run("bob", &format!("jit-broker -o json approve {id}")).json();
        after["grant_id"].as_str().unwrap().to_owned()
    }

    /// A grant as bob sees it.
    #[track_caller]
    pub fn grant(&self, id: &str) -> Value {
        self.run("bob", &format!("jit-broker -o json show {id}")).json()
    }
}
