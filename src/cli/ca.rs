//! `ca`: what is public of the authority. From the remembered broker, or on the broker's own machine from its files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client::Client;
use super::context::Context;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, output};
use crate::domain::authority::Purpose;
use crate::domain::key::Key;
use crate::domain::refusal::Code;
use crate::domain::text::shown;
use crate::settings::{Settings, bad_config};
use crate::signer::keys::Keys;
use crate::wire::{About, KrlDoc};

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
    /// Replaces an authority without an outage; administrators
    Rotate(super::rotate::RotateArgs),
}

/// The public keys, by what they sign; two of a kind while one is being replaced, the one that signs first.
struct Authority {
    of: BTreeMap<String, Vec<String>>,
}

impl Authority {
    fn of(&self, kind: &str) -> Result<String, Failure> {
        let none = || Failure::new(Code::MISSING, format!("This installation has no authority {kind}."));
        self.of.get(kind).filter(|keys| !keys.is_empty()).map(|keys| keys.join("\n")).ok_or_else(none)
    }

    fn remembered(context: &Context) -> Self {
        let texts = |keys: Vec<Key>| keys.iter().map(ToString::to_string).collect();
        let pem = |text: String| text.trim_end().to_owned();
        let mut of: BTreeMap<String, Vec<String>> = [Purpose::SshUser, Purpose::SshGateway, Purpose::SshHost]
            .into_iter()
            .map(|purpose| (purpose.to_string(), texts(context.trusted(purpose))))
            .collect();
        of.insert("log".to_owned(), vec![context.about.log_key.to_string()]);
        of.insert(Purpose::X509Client.to_string(), context.client_pem().map(pem).into_iter().collect());
        of.insert(Purpose::X509Server.to_string(), vec![pem(context.server_pem())]);
        Self { of }
    }

    /// From the files of the broker on this machine: its log says which keys count, its folder of keys has them.
    async fn local(settings: &Settings) -> Result<Self, Failure> {
        let keys = Keys::look(&settings.ca_dir)?;
        let state = super::onsite::folded(settings).await?;
        let mut of = BTreeMap::from([("log".to_owned(), vec![keys.log_public().to_string()])]);
        for (purpose, ring) in &state.authorities.rings {
            let text = |public: &str| match purpose.is_ssh() {
                true => Some(public.to_owned()),
                false => keys.x509(*purpose, public).map(|(_, cert)| cert.pem().trim_end().to_owned()),
            };
            of.insert(purpose.to_string(), ring.trusted().filter_map(text).collect());
        }
        Ok(Self { of })
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
        if let CaVerb::Rotate(args) = &self.verb {
            if settings.is_some() {
                let what = "A replacement is signed by an administrator and asked of the broker: leave --config out.";
                return Err(Failure::new(Code::USAGE, what));
            }
            return args.run(globals).await;
        }
        let authority = match &settings {
            Some(settings) => Authority::local(settings).await?,
            None => {
                let mut client = Client::remembered(&Home::find()?)?;
                // A replacement may have begun since the last contact; whoever installs what stands here must not miss it.
                match client.get::<About>("/v1/about").await {
                    Err(failure) if failure.0.code == Code::UNREACHABLE => {
                        eprintln!("note: {} This is what was known last.", shown(&failure.0.message));
                    }
                    other => drop(other?),
                }
                Authority::remembered(client.context()?)
            }
        };
        match &self.verb {
            CaVerb::Export { kind } => {
                let text = authority.of(kind)?;
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                output::answer(globals.output, "ca", serde_json::json!({ "kind": kind, "key": text }), kind, &lines)?;
            }
            _ => {
                let kinds = ["ssh-user", "ssh-gateway", "ssh-host", "log", "x509-client", "x509-server"].into_iter();
                let keys = kinds.flat_map(|kind| {
                    let keys = authority.of.get(kind).cloned().unwrap_or_default();
                    keys.into_iter().map(move |key| serde_json::json!({ "kind": kind, "key": key }))
                });
                let items: Vec<_> = keys.collect();
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
