//! `env` and `connect`: what to set or paste, for programs that this one does not start.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::files::{Access, Folder, service_file};
use super::{Asking, quoted, ready};
use crate::cli::failure::Failure;
use crate::cli::home::Home;
use crate::cli::{Globals, output};
use crate::domain::database::Auth;
use crate::domain::names::TargetName;

/// The shells whose words are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// sh, bash, zsh
    Sh,
    /// fish
    Fish,
    /// One JSON object
    Json,
}

/// `jit-broker env`
#[derive(Debug, Args)]
pub struct EnvArgs {
    /// The target
    target: TargetName,
    /// How it is written
    #[arg(long, value_enum, default_value = "sh")]
    shell: Shell,
    #[command(flatten)]
    asking: Asking,
}

/// The environment that libpq and most drivers read (PostgreSQL chapter 34.15).
pub(super) fn environment(home: &Home, access: &Access) -> Result<Vec<(String, String)>, Failure> {
    let folder = Folder::open(home, &access.target)?;
    let name = |key: &str| match key {
        "dbname" => "PGDATABASE".to_owned(),
        "passfile" => "PGPASSFILE".to_owned(),
        other => format!("PG{}", other.to_ascii_uppercase()),
    };
    let mut all: Vec<(String, String)> =
        folder.role_settings(access).into_iter().map(|(key, value)| (name(key), value)).collect();
    all.push(("PGSERVICEFILE".to_owned(), service_file(home).display().to_string()));
    // Drivers that are no libpq (node-postgres, most ORMs) take the files of TLS from a URI alone.
    all.push(("DATABASE_URL".to_owned(), uri(&folder, access)));
    Ok(all)
}

impl EnvArgs {
    /// Prints the environment.
    ///
    /// # Errors
    /// The refusal.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let (home, access) = ready(&self.asking.wish(&self.target), globals).await?;
        let all = environment(&home, &access)?;
        match self.shell {
            Shell::Sh => all.iter().for_each(|(key, value)| println!("export {key}={}", quoted(value))),
            Shell::Fish => all.iter().for_each(|(key, value)| {
                println!("set -gx {key} '{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
            }),
            Shell::Json => {
                let map: serde_json::Map<String, serde_json::Value> =
                    all.into_iter().map(|(key, value)| (key, value.into())).collect();
                println!("{}", serde_json::Value::Object(map));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What settings are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
enum For {
    /// A psql command line
    Psql,
    /// A libpq URI
    Uri,
    /// A JDBC URL
    Jdbc,
    /// The fields of DBeaver
    DBeaver,
    /// The fields of DataGrip
    DataGrip,
}

/// `jit-broker connect`
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The target
    target: TargetName,
    /// What the settings are for
    #[arg(long = "for", value_enum)]
    for_: For,
    #[command(flatten)]
    asking: AskingFor,
}

/// As [`Asking`]; `--for` names the program here, so the duration is `--duration`.
#[derive(Debug, Clone, Args)]
struct AskingFor {
    /// The role on it; may be left out where there is one
    #[arg(long)]
    role: Option<crate::domain::names::RoleName>,
    /// For how long: 30m, 2h, PT2H30M
    #[arg(long, value_name = "DURATION")]
    duration: Option<String>,
    /// Why; those who approve read it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The ticket it is for
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
}

impl ConnectArgs {
    /// Prints settings to paste.
    ///
    /// # Errors
    /// The refusal.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let AskingFor { role, duration, reason, ticket } = self.asking.clone();
        let asking = Asking { role, for_: duration, reason, ticket };
        let (home, access) = ready(&asking.wish(&self.target), globals).await?;
        let folder = Folder::open(&home, &access.target)?;
        let lines = match self.for_ {
            For::Psql => vec![super::how_to_use_role(&home, &access)],
            For::Uri => vec![uri(&folder, &access)],
            For::Jdbc => vec![jdbc(&folder, &access)],
            For::DBeaver | For::DataGrip => fields(&folder, &access),
        };
        let doc =
            serde_json::json!({ "schema": "jit-broker/connect/v1", "target": access.target, "text": lines.join("\n") });
        if access.auth == Auth::Password && self.for_ == For::Jdbc {
            // On stderr: what is pasted never has a password in it.
            let file = folder.of_role(&access.role, "pgpass").display().to_string();
            eprintln!("The driver reads the password where the environment has PGPASSFILE={}.", quoted(&file));
        }
        output::one(globals.output, &doc, &lines.join("\n"), |_| lines.clone())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// RFC 3986 section 2.3: everything that is not unreserved is escaped.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn uri(folder: &Folder, access: &Access) -> String {
    let (host, _) = access.place();
    let place = format!("postgresql://{}@{}/{}", access.user, authority(host, access.port), access.database);
    let rest = folder.role_settings(access).into_iter();
    let rest: Vec<String> = rest
        .filter(|(key, _)| !matches!(*key, "host" | "port" | "dbname" | "user"))
        .map(|(key, value)| format!("{key}={}", escaped(&value)))
        .collect();
    format!("{place}?{}", rest.join("&"))
}

fn jdbc(folder: &Folder, access: &Access) -> String {
    let file = |name: &str| escaped(&folder.file(name).display().to_string());
    let cert = escaped(&folder.of_role(&access.role, "client.crt").display().to_string());
    let (host, _) = access.place();
    let place = format!("jdbc:postgresql://{}/{}", authority(host, access.port), access.database);
    let proof = match access.auth {
        Auth::Cert => format!("&sslcert={cert}&sslkey={}", file("client.pk8")),
        Auth::Password => String::new(),
    };
    format!("{place}?user={}&sslmode=verify-full&sslrootcert={}{proof}", access.user, file("root.crt"))
}

fn fields(folder: &Folder, access: &Access) -> Vec<String> {
    let file = |name: &str| folder.file(name).display().to_string();
    let (host, _) = access.place();
    let mut lines = vec![
        format!("Host            {host}"),
        format!("Port            {}", access.port),
        format!("Database        {}", access.database),
        format!("User            {}", access.user),
        "SSL mode        verify-full".to_owned(),
        format!("CA file         {}", file("root.crt")),
    ];
    match access.auth {
        Auth::Cert => lines.extend([
            format!("Client cert     {}", folder.of_role(&access.role, "client.crt").display()),
            format!("Client key      {}", file("client.pk8")),
        ]),
        Auth::Password => lines
            .push(format!("Password        in {} (the last field)", folder.of_role(&access.role, "pgpass").display())),
    }
    lines.push(format!("URL             {}", jdbc(folder, access)));
    lines.push("The paths stay; the user changes with every grant.".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_word_is_escaped() {
        assert_eq!(escaped("/run/a b&c=é"), "/run/a%20b%26c%3D%C3%A9");
        assert_eq!(quoted("/run/it's"), "'/run/it'\\''s'");
        assert_eq!(authority("::1", 5432), "[::1]:5432");
    }
}
