//! Sign-in.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::client::{Client, Trust};
use super::context::{Context, consistent};
use super::failure::Failure;
use super::home::Home;
use super::keys::Signing;
use super::{Globals, hint, output};
use crate::domain::names::PersonName;
use crate::domain::refusal::Code;
use crate::wire::{About, Me, Outcome};

/// `jit-broker auth …`
#[derive(Debug, Subcommand)]
pub enum AuthVerb {
    /// Signs in with an SSH key; the first time the server must be named with its authority or fingerprint
    Login {
        /// https://HOST[:PORT]
        #[arg(long, env = "JIT_BROKER_SERVER")]
        server: Option<String>,
        /// The PEM file of the server's authority
        #[arg(long, env = "JIT_BROKER_CA_FILE", conflicts_with = "fingerprint")]
        ca_file: Option<PathBuf>,
        /// SHA256:… of the server's authority, as the administrator gave it
        #[arg(long)]
        fingerprint: Option<String>,
        /// The name that must answer
        #[arg(long = "as")]
        name: Option<PersonName>,
        /// A private key, or a public one whose private half is in the agent
        #[arg(long)]
        ssh_key: Option<PathBuf>,
    },
    /// Who one is
    Status,
    /// Ends the session; keys and certificates stay
    Logout,
    /// Goes on with a broker that lost entries after a restore, or whose administrators root replaced
    Acknowledge {
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

impl AuthVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let home = Home::find()?;
        match self {
            Self::Login { server, ca_file, fingerprint, name, ssh_key } => {
                let trust = trust(ca_file.as_deref(), fingerprint.as_deref())?;
                let key = ssh_key
                    .as_ref()
                    .map(|k| std::path::absolute(k).unwrap_or_else(|_| k.clone()).display().to_string());
                login(&home, server.as_deref(), trust, name.as_ref(), key).await?;
                hint::once(
                    &home,
                    "ls",
                    "jit-broker ls shows what you may ask for; jit-broker completions SHELL --install completes it.",
                );
            }
            Self::Status => {}
            Self::Acknowledge { yes } => return super::epoch::acknowledge(*yes, globals).await,
            Self::Logout => {
                let mut client = Client::remembered(&home)?;
                let mut context = client.context()?.clone();
                // Without a person nothing renews itself. A session that is over already is no reason to keep its file.
                client.forget_person();
                let ended = client.post::<_, Outcome>("/v1/logout", &serde_json::json!({})).await;
                let _ = std::fs::remove_file(home.run.join("session"));
                context.person = None;
                context.save(&home)?;
                match ended {
                    Err(failure) if failure.0.code != Code::NOT_SIGNED_IN => return Err(failure),
                    _ => output::done(globals.output, "auth.logout", "Signed out.")?,
                }
                return Ok(ExitCode::SUCCESS);
            }
        }
        let mut client = Client::remembered(&home)?;
        let me: Me = client.get("/v1/me").await?;
        output::one(globals.output, &me, me.person.as_str(), |me| {
            let groups: Vec<String> = me.groups.iter().map(ToString::to_string).collect();
            let mut line = format!("{}  groups: {}", me.person, groups.join(", "));
            if !me.offices.is_empty() {
                line.push_str(&format!("  offices: {}", me.offices.join(", ")));
            }
            vec![line]
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn trust(ca_file: Option<&std::path::Path>, fingerprint: Option<&str>) -> Result<Option<Trust>, Failure> {
    match (ca_file, fingerprint) {
        (Some(path), _) => std::fs::read_to_string(path)
            .map(|pem| Some(Trust::Pem(pem)))
            .map_err(|e| Failure::local(path.display(), e)),
        (None, Some(fingerprint)) => Ok(Some(Trust::Fingerprint(fingerprint.to_owned()))),
        (None, None) => Ok(None),
    }
}

async fn login(
    home: &Home,
    server: Option<&str>,
    trust: Option<Trust>,
    name: Option<&PersonName>,
    key: Option<String>,
) -> Result<(), Failure> {
    let known = match Context::load(home) {
        Err(failure) if failure.0.code == Code::NOT_SIGNED_IN => None,
        other => Some(other?),
    };
    let server =
        server.map(|s| s.trim_end_matches('/').to_owned()).or_else(|| known.as_ref().map(|c| c.server.clone()));
    let server =
        server.ok_or_else(|| Failure::new(Code::USAGE, "Which broker? Say it with --server https://HOST[:PORT]."))?;
    let trust = match (trust, known.as_ref().filter(|c| c.server == server)) {
        (Some(trust), _) => trust,
        (None, Some(context)) => Trust::Pem(context.server_pem()),
        (None, None) => {
            return Err(Failure::new(
                Code::USAGE,
                "Nothing is trusted on first use. Give --fingerprint SHA256:… or --ca-file FILE.",
            ));
        }
    };
    let mut client = Client::first(home.clone(), server.clone(), trust.clone());
    let mut about: About = client.get("/v1/about").await?;
    consistent(&about)?;
    if let Some(context) = &known
        && (context.about.install != about.install || context.about.log_key != about.log_key)
    {
        // SECURITY: the remembered checkpoint is what shows a rolled-back log; no sign-in may replace it.
        let mut failure =
            Failure::new(Code::ROLLED_BACK, "That is another installation than the one that is remembered here.");
        failure.0.hint = Some("For a second broker: jit-broker --context NAME auth login …".to_owned());
        return Err(failure);
    }
    if let Some(context) = &known {
        context.unreset(&about)?;
    }
    about.server_ca_pem = trust.pinned(&about.server_ca_pem)?;
    // While nobody signs, nothing is said of the authorities: what was signed before counts.
    let about = match &known {
        Some(known) if about.trust.is_none() && known.about.trust.is_some() => {
            About { public_url: about.public_url, ..known.about.clone() }
        }
        _ => about,
    };
    let signing = Signing::choose(key.as_deref().or(known.as_ref().and_then(|c| c.key.as_deref())))?;
    let remembered = match (&key, &signing) {
        (Some(path), Signing::File(..)) => path.clone(),
        (None, Signing::File(..)) => known.as_ref().and_then(|c| c.key.clone()).unwrap_or_else(usual_key),
        (_, Signing::Agent(key)) => key.0.fingerprint(),
    };
    if known.is_none() && home.state.join("checkpoint").exists() {
        aside(home)?;
    }
    client.adopt(Context { server, about, person: None, key: Some(remembered) });
    let session = client.open_session(&signing).await?;
    // Nothing of a sign-in as somebody else is kept.
    if name.is_some_and(|name| *name != session.person) {
        return Err(Failure::new(Code::UNKNOWN_KEY, format!("That key is {}'s.", session.person)));
    }
    // With what the sign-in itself may have learnt. A log that lost entries was told of before this.
    let context = Context { person: Some(session.person), ..client.context()?.clone() };
    if let Some(known) = &known {
        context.no_older(known)?;
    }
    context.replace(home, known.as_ref())?;
    client.keep_session(&session.token)
}

/// Puts aside the checkpoint of a first sign-in that failed: no broker is pinned that it could speak of.
fn aside(home: &Home) -> Result<(), Failure> {
    let (from, to) = (home.state.join("checkpoint"), home.state.join("checkpoint.before"));
    std::fs::rename(&from, &to).map_err(|e| Failure::local(from.display(), e))
}

fn usual_key() -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    let usual = ["id_ed25519", "id_ecdsa"].map(|name| format!("{home}/.ssh/{name}"));
    usual.into_iter().find(|path| std::path::Path::new(path).is_file()).unwrap_or_default()
}
