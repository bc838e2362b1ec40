//! `host`: what a target's own sshd needs, and what keeps its revocation list fresh.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jit_ca::key::PrivateKey;

use super::ask::{me, target};
use super::client::{Client, Trust};
use super::failure::Failure;
use super::home::{Home, read_private};
use super::{Globals, keys};
use crate::domain::act::{Deed, HOST_NAMESPACE, KRL_NAMESPACE, SignedAct};
use crate::domain::digest::canonical;
use crate::domain::event::HostWord;
use crate::domain::names::TargetName;
use crate::domain::refusal::Code;
use crate::wire::{About, KrlDoc, Outcome};

/// `jit-broker host …`
#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Certifies a host's key, and prints what to put where on the host
    Enroll {
        /// The target
        target: TargetName,
        /// The host's public key: a copy of /etc/ssh/ssh_host_ed25519_key.pub
        #[arg(long, value_name = "PUB")]
        key: PathBuf,
        /// Prints the steps (nothing is done over ssh in this version)
        #[arg(long)]
        print: bool,
    },
    /// On a host: fetches the revocation list, installs it, and confirms it
    Run(RunArgs),
}

/// What `host run` needs to know.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// https://HOST[:PORT]
    #[arg(long)]
    server: String,
    /// The PEM file of the server's authority
    #[arg(long)]
    ca_file: PathBuf,
    /// This host's name as a target
    #[arg(long)]
    target: TargetName,
    /// This host's private key
    #[arg(long, default_value = "/etc/ssh/ssh_host_ed25519_key")]
    host_key: PathBuf,
    /// The file that TrustedUserCAKeys names
    #[arg(long, default_value = "/etc/ssh/jit-broker/user_ca.pub")]
    trusted: PathBuf,
    /// The file that RevokedKeys names
    #[arg(long, default_value = "/etc/ssh/jit-broker/krl")]
    krl: PathBuf,
    /// Once, and not every five seconds
    #[arg(long)]
    once: bool,
}

impl HostVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says, or [`Code::ROLLED_BACK`] for an older list.
    pub async fn run(&self, _: &Globals) -> Result<ExitCode, Failure> {
        match self {
            Self::Enroll { target, key, .. } => enroll(target, &keys::public(key)?).await?,
            Self::Run(args) => loop {
                let result = args.once().await;
                if args.once {
                    eprintln!("list {} is installed and confirmed", result?);
                    break;
                }
                if let Err(failure) = result {
                    failure.report(false);
                }
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            },
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn enroll(name: &TargetName, key: &crate::domain::key::Key) -> Result<(), Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let deed = Deed::EnrollHost { by: me(&client)?, target: name.clone(), key: key.clone() };
    let outcome: Outcome = client.act(deed, None, None).await?;
    let certificate =
        outcome.host.ok_or_else(|| Failure::new(Code::BUG, "The broker sent no certificate."))?.certificate;
    let doc = target(&mut client, name).await?;
    let krl: KrlDoc = client.get("/v1/krl").await?;
    let context = client.context()?;
    println!(
        "# Run as root on {name}. The list comes before the directive that names it: sshd refuses everybody without it."
    );
    println!("install -d -m 755 /etc/ssh/jit-broker /etc/ssh/jit-broker/principals");
    println!("cat > /etc/ssh/jit-broker/user_ca.pub <<'EOF'\n{}\nEOF", context.about.ssh_user);
    println!("cat > /etc/ssh/jit-broker/server-ca.pem <<'EOF'\n{}EOF", context.about.server_ca_pem);
    println!("base64 -d > /etc/ssh/jit-broker/krl.new <<'EOF'\n{}\nEOF", krl.krl);
    println!("mv /etc/ssh/jit-broker/krl.new /etc/ssh/jit-broker/krl");
    println!("cat > /etc/ssh/ssh_host_ed25519_key-cert.pub <<'EOF'\n{certificate}\nEOF");
    let mut logins: Vec<_> = doc.roles.iter().flat_map(|r| &r.logins).collect();
    logins.sort();
    logins.dedup();
    for login in logins {
        println!("echo '{name}/{login}' > /etc/ssh/jit-broker/principals/{login}");
    }
    println!(
        "cat > /etc/ssh/sshd_config.d/60-jit-broker.conf <<'EOF'\nTrustedUserCAKeys /etc/ssh/jit-broker/user_ca.pub\n\
         AuthorizedPrincipalsFile /etc/ssh/jit-broker/principals/%u\nRevokedKeys /etc/ssh/jit-broker/krl\n\
         HostKey /etc/ssh/ssh_host_ed25519_key\nHostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\nEOF"
    );
    println!("sshd -t && systemctl reload ssh");
    println!("# Keeps the list fresh and confirms it; put it under systemd (config/target-host/).");
    println!(
        "jit-broker host run --server {} --ca-file /etc/ssh/jit-broker/server-ca.pem --target {name}",
        context.server
    );
    Ok(())
}

impl RunArgs {
    /// Fetches, checks, installs and confirms the revocation list once; gives its version.
    ///
    /// # Errors
    /// [`Code::ROLLED_BACK`] for a list that is older than the installed one; [`Code::BAD_SIGNATURE`].
    pub async fn once(&self) -> Result<u64, Failure> {
        let pem = std::fs::read_to_string(&self.ca_file).map_err(|e| Failure::local(self.ca_file.display(), e))?;
        let mut client = Client::first(Home::find()?, self.server.clone(), Trust::Pem(pem));
        let doc: KrlDoc = client.get("/v1/krl").await?;
        let bytes = data_encoding::BASE64.decode(doc.krl.as_bytes()).map_err(|e| Failure::local("the list", e))?;
        let trusted = keys::public(&self.trusted)?;
        let bad = |what: String| {
            Failure::new(Code::BAD_SIGNATURE, format!("The revocation list is not the broker's: {what}."))
        };
        let verified = jit_ca::sshsig::verify(KRL_NAMESPACE, &bytes, &doc.signature).map_err(|e| bad(e.to_string()))?;
        let list = jit_ca::krl::Krl::decode(&bytes).map_err(|e| bad(e.to_string()))?;
        if verified.key != trusted.0 || list.ca != trusted.0 || list.version != doc.version {
            return Err(bad("another key signed it".to_owned()));
        }
        // SECURITY (T65): sshd compares no versions, so this does.
        let installed =
            std::fs::read(&self.krl).ok().and_then(|b| jit_ca::krl::Krl::decode(&b).ok()).map_or(0, |k| k.version);
        if list.version < installed {
            return Err(Failure::new(
                Code::ROLLED_BACK,
                format!("The broker offers list {}, and {installed} is installed here.", list.version),
            ));
        }
        if list.version > installed {
            crate::signer::keys::replace(&self.krl, &bytes, 0o644)?;
        }
        self.confirm(&mut client, list.version).await?;
        Ok(list.version)
    }

    async fn confirm(&self, client: &mut Client, version: u64) -> Result<(), Failure> {
        let text = read_private(&self.host_key)?.unwrap_or_default();
        let bad = |e: jit_ca::key::KeyError| Failure::new(Code::BAD_KEY, format!("{}: {e}.", self.host_key.display()));
        let key = PrivateKey::from_openssh(&text, None).map_err(bad)?;
        let about: About = client.get("/v1/about").await?;
        let at = crate::clock::wall_s();
        let word = HostWord { install: about.install, target: self.target.clone(), krl_version: version, at };
        let bytes = canonical(&word).map_err(|e| Failure::local("the confirmation", e))?;
        let signature =
            jit_ca::sshsig::sign(&key, HOST_NAMESPACE, &bytes).map_err(|e| Failure::local("the confirmation", e))?;
        let act = String::from_utf8(bytes).map_err(|e| Failure::local("the confirmation", e))?;
        let _: Outcome = client.post("/v1/hosts/confirm", &SignedAct { act, signature }).await?;
        Ok(())
    }
}
