//! The verbs of recorded sessions. What a recording has is hostile: it reaches the terminal through the filter of
//! [`crate::record::screen`] alone.

mod fetch;
mod pace;
mod replay;

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::answer::{only, says_which};
use super::ask::{me, words};
use super::audit::escaped;
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, output, prompt};
use crate::domain::act::Deed;
use crate::domain::ids::SessionId;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::text::shown;
use crate::record::export::{Escapes, ExportError, cast, jsonl, text};
use crate::wire::{FoundDoc, List, RecordedDoc};

/// `jit-broker session …`
#[derive(Debug, Subcommand)]
pub enum SessionVerb {
    /// Sessions, newest first
    Ls(LsArgs),
    /// One session
    Show {
        /// Its id or a prefix
        id: String,
    },
    /// Follows a session while it lasts
    Tail {
        /// Its id or a prefix
        id: String,
    },
    /// Plays a recording
    Replay(ReplayArgs),
    /// Writes a recording for players, programs or people
    Export {
        /// Its id or a prefix
        id: String,
        /// In which form
        #[arg(long, value_enum, default_value = "cast")]
        format: Form,
        /// Which channel of it; default: the first that shows anything
        #[arg(long)]
        channel: Option<u32>,
        /// Casts with every byte as it passed; a terminal that plays them obeys what is in them
        #[arg(long)]
        raw: bool,
        /// Where to; default stdout
        #[arg(short = 'O', long = "out", value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Finds a text in commands, file operations and what was shown
    Search {
        /// The text; the case of ASCII letters does not matter
        text: String,
    },
    /// Ends a session, and not its grant
    End {
        /// Its id or a prefix
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

/// Which sessions.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only open ones
    #[arg(long)]
    live: bool,
    /// Only this person's
    #[arg(long)]
    person: Option<PersonName>,
    /// Only on this target
    #[arg(long)]
    target: Option<TargetName>,
    /// How many
    #[arg(short, long, default_value_t = 50)]
    n: u32,
}

/// How a recording is played.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Its id or a prefix
    id: String,
    /// So many times as fast
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// From this moment on, such as 1m30s
    #[arg(long)]
    at: Option<String>,
    /// The longest pause, such as 2s; 0 for none at all
    #[arg(long, default_value = "2s")]
    idle: String,
    /// Which channel of it; default: the first that shows anything
    #[arg(long)]
    channel: Option<u32>,
    /// At once, as plain text
    #[arg(long, conflicts_with_all = ["speed", "at", "idle"])]
    text: bool,
}

/// The forms of an export.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Form {
    /// Asciicast v2, for asciinema and every other player.
    Cast,
    /// One JSON document a frame.
    Jsonl,
    /// What could be read on the screen.
    Txt,
}

impl SessionVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        let client = &mut client;
        match self {
            Self::Ls(which) => ls(client, which, globals).await?,
            Self::Show { id } => print(&find(client, id).await?, globals)?,
            Self::Tail { id } => {
                let doc = find(client, id).await?;
                replay::tail(client, &doc).await?;
            }
            Self::Replay(args) => {
                let doc = find(client, &args.id).await?;
                let file = fetch::whole(client, &doc).await?;
                if args.text {
                    text(crate::record::Reader::new(file), &mut std::io::stdout().lock()).map_err(broken)?;
                } else {
                    replay::play(file, &replay::Wish::of(args)?)?;
                }
            }
            Self::Export { id, format, channel, raw, out } => {
                let doc = find(client, id).await?;
                let file = fetch::whole(client, &doc).await?;
                let escapes = if *raw { Escapes::Untouched } else { Escapes::Harmless };
                export(file, *format, *channel, escapes, out.as_deref())?;
            }
            Self::Search { text } => search(client, text, globals).await?,
            Self::End { id, reason } => end(client, id, reason.as_deref(), globals).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn broken(error: ExportError) -> Failure {
    let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    Failure::local("the recording", format!("{error}{cause}"))
}

/// Finds a session by a unique prefix of its id.
async fn find(client: &mut Client, id: &str) -> Result<RecordedDoc, Failure> {
    if let Ok(id) = id.parse::<SessionId>() {
        return client.get(&format!("/v1/sessions/{id}")).await;
    }
    says_which("ses_", "session", id)?;
    let all: List<RecordedDoc> = client.get("/v1/sessions?limit=200").await?;
    only(all.items.into_iter().filter(|doc| doc.id.to_string().starts_with(id)), "session", id)
}

async fn ls(client: &mut Client, which: &LsArgs, globals: &Globals) -> Result<(), Failure> {
    let mut filter = String::new();
    if which.live {
        filter.push_str("&live=true");
    }
    for (name, value) in [
        ("person", which.person.as_ref().map(ToString::to_string)),
        ("target", which.target.as_ref().map(ToString::to_string)),
    ] {
        value.iter().for_each(|value| filter.push_str(&format!("&{name}={}", escaped(value))));
    }
    let wanted = usize::try_from(which.n).unwrap_or(usize::MAX);
    let mut all: Vec<RecordedDoc> = Vec::new();
    let mut before = String::new();
    while all.len() < wanted {
        let limit = (wanted - all.len()).min(200);
        let page: List<RecordedDoc> = client.get(&format!("/v1/sessions?limit={limit}{filter}{before}")).await?;
        all.extend(page.items);
        match page.next {
            Some(seq) => before = format!("&before_seq={seq}"),
            None => break,
        }
    }
    all.truncate(wanted);
    let head = ["id", "person", "target", "login", "opened", "closed", "cause"];
    output::list(globals.output, "session", &all, &head, |doc| {
        vec![
            doc.id.to_string(),
            doc.person.to_string(),
            doc.target.to_string(),
            doc.login.to_string(),
            doc.opened_at.clone(),
            doc.closed_at.clone().unwrap_or_else(|| "open".to_owned()),
            doc.cause.clone().unwrap_or_default(),
        ]
    })
}

fn print(doc: &RecordedDoc, globals: &Globals) -> Result<(), Failure> {
    output::one(globals.output, doc, &doc.id.to_string(), |doc| {
        let mut lines = vec![
            format!("session {}", doc.id),
            format!("{} on {} as {}, under {}", doc.person, doc.target, doc.login, doc.grant_id),
            format!("opened {}", doc.opened_at),
        ];
        if let (Some(at), Some(cause)) = (&doc.closed_at, &doc.cause) {
            let bytes = format!("{} bytes in, {} out", doc.bytes_in.unwrap_or(0), doc.bytes_out.unwrap_or(0));
            lines.push(format!("closed {at}: {cause}; {bytes}"));
        }
        match (&doc.recording, &doc.sha256) {
            (Some(_), Some(sha256)) => lines.push(format!("recording sealed: {sha256}")),
            (Some(state), None) => lines.push(format!("recording {state}")),
            (None, _) => lines.push("nothing was recorded".to_owned()),
        }
        lines
    })
}

async fn search(client: &mut Client, text: &str, globals: &Globals) -> Result<(), Failure> {
    let found: List<FoundDoc> = client.get(&format!("/v1/sessions/search?text={}", escaped(text))).await?;
    output::list(globals.output, "found", &found.items, &["session", "at", "line"], |found| {
        let s = found.at_ms / 1000;
        let at = format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
        vec![found.session_id.to_string(), at, found.line.clone()]
    })?;
    if found.items.is_empty() && !globals.json() {
        eprintln!("Nothing was found.");
    }
    Ok(())
}

async fn end(client: &mut Client, id: &str, reason: Option<&str>, globals: &Globals) -> Result<(), Failure> {
    let doc = find(client, id).await?;
    if let Some(at) = &doc.closed_at {
        let message = format!("{} is closed already, since {at}.", doc.id);
        let next = format!("jit-broker session show {}", doc.id);
        return Err(Failure(Refusal::new(Code::FINAL, message).hint(next)));
    }
    let reason = match reason {
        Some(reason) => reason.to_owned(),
        None => prompt::ask("Reason: ", "--reason TEXT")?,
    };
    let deed = Deed::EndSession { by: me(client)?, session: doc.id };
    client.act(deed, words(Some(&reason), None)?, None).await?;
    output::done(globals.output, "session.end_asked", &format!("{} is being ended.", doc.id))
}

/// Writes an export to a private file that is there only when it is whole, or to stdout.
fn export(
    file: std::fs::File,
    format: Form,
    channel: Option<u32>,
    escapes: Escapes,
    to: Option<&Path>,
) -> Result<(), Failure> {
    let reader = crate::record::Reader::new(file);
    let write = |out: &mut dyn Write| match format {
        Form::Cast => cast(reader, channel, escapes, out),
        Form::Jsonl => jsonl(reader, out),
        Form::Txt => text(reader, out),
    };
    let Some(path) = to else {
        let stdout = std::io::stdout();
        if stdout.is_terminal() && !matches!(format, Form::Txt) {
            eprintln!("note: -O FILE writes it to a file");
        }
        return write(&mut std::io::BufWriter::new(stdout.lock())).map_err(broken);
    };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let failed = |e: std::io::Error| Failure::local(path.display(), e);
    let made = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let mut out = std::io::BufWriter::new(made.map_err(failed)?);
    let kept = write(&mut out)
        .map_err(broken)
        .and_then(|()| out.get_ref().sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(failed));
    if kept.is_err() {
        let _ = std::fs::remove_file(&part);
    } else {
        eprintln!("{}", shown(&path.display().to_string()));
    }
    kept
}
