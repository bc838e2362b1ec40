//! The command line: a thin client of the API that holds no key of the broker, and the operator's verbs.
//!
//! Start with [`main`]; [`client`] talks to the broker, [`failure`] turns errors into texts and exit statuses.

mod admin;
mod agent;
mod answer;
mod ask;
mod audit;
mod auth;
#[cfg(feature = "server")]
mod backup;
#[cfg(not(feature = "server"))]
#[path = "backup_not.rs"]
mod backup;
mod ca;
#[cfg(feature = "server")]
mod certificate;
mod client;
mod clock;
mod completions;
mod context;
mod database;
mod doctor;
mod epoch;
mod extend;
mod failure;
mod files;
mod hint;
mod home;
mod hook;
mod host;
mod keys;
mod known;
mod left;
mod log;
mod man;
#[cfg(feature = "server")]
mod onsite;
#[cfg(not(feature = "server"))]
#[path = "onsite_not.rs"]
mod onsite;
mod output;
mod prompt;
#[cfg(feature = "server")]
mod receipt;
mod review;
mod rotate;
#[cfg(feature = "server")]
mod serve;
#[cfg(not(feature = "server"))]
#[path = "serve_not.rs"]
mod serve;
mod session;
mod ssh;
mod ssh_config;
mod status;
mod terms;
mod texts;
mod trust;
#[cfg(feature = "server")]
mod verify;
#[cfg(not(feature = "server"))]
#[path = "verify_not.rs"]
mod verify;
mod wait;
mod watch;
mod who_can;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::refusal::Code;
use failure::Failure;
pub use files::{bundle_files, has_bundle};
use output::Format;

/// Access when it is needed, for as long as it is needed.
#[derive(Debug, Parser)]
#[command(name = "jit-broker", version, max_term_width = 120, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    /// Asks nothing; fails, and names the flag that would have answered
    #[arg(long, global = true)]
    no_input: bool,
    /// One of several brokers, each with its own sign-in and credentials
    #[arg(long, global = true, value_name = "NAME", env = "JIT_BROKER_CONTEXT")]
    context: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Globals {
    /// How the answer is written
    #[arg(short, long, value_enum, global = true, default_value = "auto", env = "JIT_BROKER_OUTPUT")]
    pub output: Format,
}

impl Globals {
    /// True when programs read the answer.
    pub fn json(&self) -> bool {
        matches!(self.output, Format::Json | Format::Jsonl)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Signs in, and tells who one is
    #[command(subcommand)]
    Auth(auth::AuthVerb),
    /// What there is, and what one may have of it
    Ls {
        /// Only this target
        target: Option<TargetName>,
    },
    /// What policy says, and the nearest thing that would be granted
    Why {
        /// The target
        target: TargetName,
        /// The role on it
        #[arg(long)]
        role: Option<RoleName>,
        /// For how long
        #[arg(long = "for", allow_hyphen_values = true)]
        for_: Option<String>,
        /// For somebody else; operators and auditors
        #[arg(long = "as")]
        about: Option<PersonName>,
    },
    /// Asks for access
    Request(ask::Wish),
    /// Asks for access where there is none, waits, and leaves the credential ready
    Login {
        #[command(flatten)]
        wish: ask::Wish,
        /// Gives the ssh-agent the certificate as well, until its end: for programs that read no configuration of OpenSSH
        #[arg(long)]
        agent: bool,
    },
    /// Waits for the answer to a request
    Wait {
        /// Its id, a prefix, or its two words
        id: String,
        /// At most so long
        #[arg(long)]
        timeout: Option<String>,
    },
    /// A request or a grant
    Show {
        /// Its id, a prefix, or a request's two words
        id: String,
    },
    /// Takes a request back
    Withdraw {
        /// Its id, a prefix, or its two words
        id: String,
    },
    /// What one has, and what is pending
    Status {
        /// Goes on showing it, as it changes
        #[arg(long)]
        watch: bool,
    },
    /// Asks that access go on: a grant of its own, that ends later
    Extend(extend::ExtendArgs),
    /// Gives access back
    Release {
        /// The grant
        id: Option<String>,
        /// Everything
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Becomes ssh, with a certificate
    Ssh(ssh::SshArgs),
    /// Makes plain ssh, scp, sftp, rsync and git work
    SshConfig(ssh_config::SshConfigArgs),
    /// An OpenSSH certificate for one's own key
    Cert(ssh::CertArgs),
    /// Becomes psql, with a credential
    Psql(database::PsqlArgs),
    /// The environment that database clients read
    Env(database::EnvArgs),
    /// Becomes a command, with that environment
    Exec(database::ExecArgs),
    /// Settings to paste, for one program or another
    Connect(database::ConnectArgs),
    /// Run by ssh
    #[command(hide = true)]
    Hook(hook::HookArgs),
    /// What waits for one's answer
    Pending {
        /// Everybody's; operators and auditors
        #[arg(long)]
        all: bool,
        /// Goes on showing it, as it changes
        #[arg(long)]
        watch: bool,
    },
    /// Answers one request after the other
    Review,
    /// Agrees to a request
    Approve(answer::ApproveArgs),
    /// Says no to a request
    Deny {
        /// Its id, a prefix, or its two words
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Ends access, and shows each proof
    Revoke {
        #[command(flatten)]
        which: answer::Which,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Recorded sessions
    #[command(subcommand)]
    Session(session::SessionVerb),
    /// A proof of who asked and who agreed, for those who have the log's public key alone
    #[cfg(feature = "server")]
    Receipt(receipt::ReceiptArgs),
    /// Judges a certificate or a receipt: is it in the log, and why was it issued?
    #[cfg(feature = "server")]
    Verify(receipt::VerifyArgs),
    /// Reads and verifies the log
    #[command(subcommand)]
    Audit(audit::AuditVerb),
    /// Plans, signs and adopts people.toml, targets.toml and policy.toml
    Apply {
        /// The folder
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Only the plan
        #[arg(long)]
        dry_run: bool,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
    /// People
    #[command(subcommand)]
    Person(admin::PersonVerb),
    /// Keys of people
    #[command(subcommand)]
    Key(admin::KeyVerb),
    /// Targets
    #[command(subcommand)]
    Target(admin::TargetVerb),
    /// Rules
    #[command(subcommand)]
    Policy(admin::PolicyVerb),
    /// The authority's public keys and its revocation list
    Ca(ca::CaArgs),
    /// The administrators, replaced by root on the broker
    #[command(subcommand)]
    Trust(TrustVerb),
    /// The broker's clock
    #[command(subcommand)]
    Clock(clock::ClockVerb),
    /// A target's own sshd
    #[command(subcommand)]
    Host(host::HostVerb),
    /// Makes a broker that refuses everything
    Init(serve::InitArgs),
    /// Runs the broker
    Serve(serve::ConfigArgs),
    /// Has the running broker read its configuration anew
    Reload(serve::ConfigArgs),
    /// Everything that a broker is, in one sealed file, while it runs
    Backup(backup::BackupArgs),
    /// A broker out of a backup; it signs nothing until administrators say what is known of the time since
    Restore(backup::RestoreArgs),
    /// Everything that serve would refuse
    Check(serve::ConfigArgs),
    /// Runs the signer as a process of its own
    Signer(serve::ConfigArgs),
    /// A throw-away broker on loopback, with people and a real sshd
    Dev(serve::DevArgs),
    /// What is wrong here, and the command that mends it
    Doctor(doctor::DoctorArgs),
    /// What makes a shell complete verbs, names and ids
    Completions(completions::CompletionsArgs),
    /// Writes the manual pages; for packages
    #[command(hide = true)]
    Man(man::ManArgs),
    /// What a code means
    Explain {
        /// Such as JB2003
        code: String,
    },
}

#[derive(Debug, Subcommand)]
enum TrustVerb {
    /// Makes those whom [trust] names the administrators, where every key of theirs is lost; with the daemon stopped
    Reset(epoch::ResetArgs),
}

/// Runs the command line; the exit status is that of cli.md.
pub fn main() -> ExitCode {
    completions::answer_shell();
    let parsed =
        command().try_get_matches().and_then(|matches| <Cli as clap::FromArgMatches>::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() && wants_json() {
                let text = error.to_string();
                let message = text.lines().take_while(|line| !line.starts_with("Usage:")).collect::<Vec<_>>().join(" ");
                let message = message.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
                return Failure::new(Code::USAGE, message).report(true);
            }
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let serves = matches!(cli.verb, Verb::Serve(_) | Verb::Dev(_) | Verb::Signer(_));
    guarded(serves, || run_parsed(cli))
}

/// Runs a command; a defect in it is told, without anybody's data, and is an exit status of its own.
pub fn guarded(serves: bool, run: impl FnOnce() -> ExitCode) -> ExitCode {
    watch_defects(serves);
    crate::bug::caught(run).unwrap_or_else(|| ExitCode::from(Code::BUG.entry().exit))
}

fn run_parsed(cli: Cli) -> ExitCode {
    if cli.no_input {
        prompt::forbid();
    }
    if let Some(Err(failure)) = cli.context.as_deref().filter(|c| !c.is_empty()).map(home::choose) {
        return failure.report(cli.globals.json());
    }
    // The hook with a certificate that holds is the hot path: no runtime, no network.
    if let Verb::Hook(args) = &cli.verb
        && args.cached()
    {
        return ExitCode::SUCCESS;
    }
    let globals = cli.globals;
    match start(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(globals.json()),
    }
}

/// A defect is a line of the daemon's log, or a report to whoever typed the command.
fn watch_defects(serves: bool) {
    let spare = move |panic: &std::panic::PanicHookInfo<'_>| {
        if !serves {
            leave_with_reader(panic);
        }
    };
    let tell = move |sentence: String| {
        if serves {
            tracing::error!(code = %Code::BUG, "{sentence}");
        } else {
            Failure::new(Code::BUG, sentence).report(wants_json());
        }
    };
    crate::bug::watch(spare, tell);
}

/// Ends quietly when whoever reads the answer has gone away, as `head` does, with the status that the signal would have given; and says so
/// when the answer cannot be written. Rust turns SIGPIPE into an error of the write, and `println!` that into a panic.
fn leave_with_reader(panic: &std::panic::PanicHookInfo<'_>) {
    let Some(said) = panic.payload_as_str().and_then(|said| said.strip_prefix("failed printing to std")) else {
        return;
    };
    if said.contains("Broken pipe") {
        std::process::exit(141);
    }
    let failure = Failure::local("the answer", said.split_once(": ").map_or(said, |(_, why)| why));
    let text = if wants_json() { failure.json() } else { failure.text() };
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
    std::process::exit(failure.0.code.entry().exit.into());
}

/// Whether a command line that cannot be parsed asked for JSON: its errors are JSON as well.
fn wants_json() -> bool {
    let words: Vec<String> = std::env::args().collect();
    let said = words.windows(2).any(|pair| {
        let [word, value] = pair else { return false };
        matches!(word.as_str(), "-o" | "--output") && value.starts_with("json")
    });
    let joined = words.iter().any(|w| w.starts_with("-ojson") || w.starts_with("--output=json"));
    said || joined || std::env::var("JIT_BROKER_OUTPUT").is_ok_and(|value| value.starts_with("json"))
}

fn start(cli: Cli) -> Result<ExitCode, Failure> {
    let serves = matches!(cli.verb, Verb::Serve(_) | Verb::Dev(_) | Verb::Signer(_));
    if let Verb::Explain { code } = &cli.verb {
        return explain(code, cli.globals.output);
    }
    log::start();
    if let Verb::Signer(args) = &cli.verb {
        return args.signer();
    }
    let mut builder = if serves {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build().map_err(|e| Failure::local("the runtime", e))?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let globals = &cli.globals;
    if matches!(cli.verb, Verb::Restore(_) | Verb::Trust(_)) {
        // They hold the ledger for a moment, and `reload` tells whoever holds it: that must not end them half-way.
        let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
    }
    match &cli.verb {
        Verb::Auth(verb) => verb.run(globals).await,
        Verb::Ls { target } => ask::ls(target.as_ref(), globals).await,
        Verb::Why { target, role, for_, about } => {
            ask::why(target, role.as_ref(), for_.as_deref(), about.as_ref(), globals).await
        }
        Verb::Request(wish) => ask::request(wish, ask::Leaves::Nothing, globals).await,
        Verb::Login { wish, agent } => {
            let leaves = if *agent { ask::Leaves::FilesAndAgent } else { ask::Leaves::Files };
            ask::request(wish, leaves, globals).await
        }
        Verb::Wait { id, timeout } => answer::wait(id, timeout.as_deref(), globals).await,
        Verb::Show { id } => answer::show(id, globals).await,
        Verb::Withdraw { id } => answer::withdraw(id, globals).await,
        Verb::Status { watch } => status::status(*watch, globals).await,
        Verb::Extend(args) => args.run(globals).await,
        Verb::Release { id, all } => answer::release(id.as_deref(), *all, globals).await,
        Verb::Ssh(args) => args.run(globals).await,
        Verb::SshConfig(args) => args.run(globals).await,
        Verb::Cert(args) => args.run(globals).await,
        Verb::Psql(args) => args.run(globals).await,
        Verb::Env(args) => args.run(globals).await,
        Verb::Exec(args) => args.run(globals).await,
        Verb::Connect(args) => args.run(globals).await,
        Verb::Hook(args) => args.run().await,
        Verb::Pending { all, watch } => status::pending(*all, *watch, globals).await,
        Verb::Review => review::review().await,
        Verb::Approve(args) => answer::approve(args, globals).await,
        Verb::Deny { id, reason } => answer::deny(id, reason.as_deref(), globals).await,
        Verb::Revoke { which, reason } => answer::revoke(which, reason.as_deref(), globals).await,
        Verb::Session(verb) => verb.run(globals).await,
        #[cfg(feature = "server")]
        Verb::Receipt(args) => args.run(globals).await,
        #[cfg(feature = "server")]
        Verb::Verify(args) => args.run(globals).await,
        Verb::Audit(verb) => verb.run(globals).await,
        Verb::Apply { dir, dry_run, yes } => admin::apply(dir, *dry_run, *yes, globals).await,
        Verb::Person(verb) => verb.run(globals).await,
        Verb::Clock(verb) => verb.run(globals).await,
        Verb::Trust(TrustVerb::Reset(args)) => args.run(globals).await,
        Verb::Key(verb) => verb.run(globals).await,
        Verb::Target(verb) => verb.run(globals).await,
        Verb::Policy(verb) => verb.run(globals).await,
        Verb::Ca(args) => args.run(globals).await,
        Verb::Host(verb) => verb.run(globals).await,
        Verb::Init(args) => args.run(globals).await,
        Verb::Serve(args) => args.serve().await,
        Verb::Check(args) => args.check(globals).await,
        Verb::Reload(args) => args.reload(globals).await,
        Verb::Backup(args) => args.run(globals).await,
        Verb::Restore(args) => args.run(globals).await,
        Verb::Dev(args) => args.run().await,
        Verb::Doctor(args) => args.run(globals).await,
        Verb::Completions(args) => args.run(globals),
        Verb::Man(args) => args.run(globals),
        Verb::Signer(_) | Verb::Explain { .. } => Err(Failure::new(Code::BUG, "This verb was dispatched before.")),
    }
}

fn explain(code: &str, format: Format) -> Result<ExitCode, Failure> {
    let code: Code = code.parse().map_err(|_| Failure::new(Code::MISSING, "There is no such code."))?;
    let entry = code.entry();
    let mut lines = vec![format!("{code}: {}", entry.title), String::new(), entry.explain.to_owned(), String::new()];
    lines.extend(entry.next.iter().map(|next| format!("next: {next}")));
    lines.push(format!("exit status {}", entry.exit));
    let doc = serde_json::json!({ "code": code, "title": entry.title, "explain": entry.explain, "next": entry.next, "exit": entry.exit });
    output::answer(format, "code", doc, &code.to_string(), &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// The command line as clap sees it, for help pages and their snapshots.
pub fn command() -> clap::Command {
    texts::with_texts(<Cli as clap::CommandFactory>::command())
}

#[cfg(test)]
mod tests;
