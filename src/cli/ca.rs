//! `ca`: what is public of the authority. From the remembered broker, or on the broker's own machine from its files.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, output};
use crate::domain::key::Key;
use crate::domain::refusal::Code;
use crate::settings::{Settings, bad_config};
use crate::signer::keys::Keys;
use crate::wire::KrlDoc;

/// `jit-broker ca …`
#[derive(Debug, Args)]
pub struct CaArgs {
    #[command(subcommand)]
    verb: CaVerb,
    /// Reads the files of the broker on this machine, and asks no broker
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum CaVerb {
    /// The authority's public keys
    List,
    /// One of them, as the programs that trust it read it
    Export {
        /// Which
        #[arg(long, value_parser = ["ssh-user", "ssh-gateway", "ssh-host", "x509-client", "x509-server", "log"])]
        kind: String,
    },
    /// The revocation list, for sshd's RevokedKeys
    Krl,
}

/// The public keys, by what they sign.
struct Authority {
    ssh_user: Key,
    ssh_host: Key,
    ssh_gateway: Option<Key>,
    log: Key,
    x509_server: String,
    x509_client: Option<String>,
}

impl Authority {
    fn of(&self, kind: &str) -> Result<String, Failure> {
        Ok(match kind {
            "ssh-user" => self.ssh_user.to_string(),
            "ssh-host" => self.ssh_host.to_string(),
            "ssh-gateway" => {
                let none =
                    || Failure::new(Code::MISSING, "This installation has no authority over gateway certificates.");
                self.ssh_gateway.as_ref().ok_or_else(none)?.to_string()
            }
            "log" => self.log.to_string(),
            "x509-client" => {
                let none =
                    || Failure::new(Code::MISSING, "This installation has no authority over client certificates.");
                self.x509_client.as_ref().ok_or_else(none)?.trim_end().to_owned()
            }
            _ => self.x509_server.trim_end().to_owned(),
        })
    }
}

impl CaArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says, or when its files cannot be read.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let settings = self.config.as_deref().map(Settings::read).transpose().map_err(|all| bad_config(&all))?;
        if let CaVerb::Krl = self.verb {
            let bytes = match &settings {
                Some(settings) => {
                    let path = settings.state_dir.join("krl");
                    std::fs::read(&path).map_err(|e| Failure::local(path.display(), e))?
                }
                None => {
                    let doc: KrlDoc = Client::remembered(&Home::find()?)?.get("/v1/krl").await?;
                    data_encoding::BASE64.decode(doc.krl.as_bytes()).map_err(|e| Failure::local("the list", e))?
                }
            };
            return krl(&bytes, globals);
        }
        let authority = match &settings {
            Some(settings) => local(settings)?,
            None => {
                let about = Client::remembered(&Home::find()?)?.context()?.about.clone();
                Authority {
                    ssh_user: about.ssh_user,
                    ssh_host: about.ssh_host,
                    ssh_gateway: about.ssh_gateway,
                    log: about.log_key,
                    x509_server: about.server_ca_pem,
                    x509_client: about.x509_client,
                }
            }
        };
        match &self.verb {
            CaVerb::Export { kind } => {
                let text = authority.of(kind)?;
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                output::answer(globals.output, "ca", serde_json::json!({ "kind": kind, "key": text }), kind, &lines)?;
            }
            _ => {
                let items: Vec<_> = ["ssh-user", "ssh-host", "log", "x509-client", "x509-server"]
                    .into_iter()
                    .filter_map(|kind| Some(serde_json::json!({ "kind": kind, "key": authority.of(kind).ok()? })))
                    .collect();
                let cell = |item: &serde_json::Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
                output::list(globals.output, "ca", &items, &["kind", "key"], |item| {
                    let key = cell(item, "key");
                    let pem = key.starts_with("-----");
                    let kind = cell(item, "kind");
                    let shown = if pem { format!("PEM; jit-broker ca export --kind {kind}") } else { key };
                    vec![kind, shown]
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn krl(bytes: &[u8], globals: &Globals) -> Result<ExitCode, Failure> {
    if globals.json() {
        let list = jit_ca::krl::Krl::decode(bytes).map_err(|e| Failure::local("the list", e))?;
        let fields = serde_json::json!({ "version": list.version, "krl": data_encoding::BASE64.encode(bytes) });
        output::answer(globals.output, "krl", fields, "krl", &[])?;
        return Ok(ExitCode::SUCCESS);
    }
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Err(Failure::new(Code::USAGE, "The list is not text. Send it to a file: jit-broker ca krl > krl"));
    }
    std::io::Write::write_all(&mut std::io::stdout(), bytes).map_err(|e| Failure::local("stdout", e))?;
    Ok(ExitCode::SUCCESS)
}

fn local(settings: &Settings) -> Result<Authority, Failure> {
    let keys = Keys::load(&settings.ca_dir)?;
    Ok(Authority {
        ssh_user: Key(keys.ssh_user.public().clone()),
        ssh_host: Key(keys.ssh_host.public().clone()),
        ssh_gateway: keys.ssh_gateway.as_ref().map(|key| Key(key.public().clone())),
        log: keys.log_public(),
        x509_server: keys.x509_cert.pem().to_owned(),
        x509_client: keys.x509_client.as_ref().map(|(_, cert)| cert.pem().to_owned()),
    })
}
