//! Completion in bash, zsh and fish: verbs and flags from the command line itself, names and ids from what this machine has seen.
//!
//! The shell runs this program at each TAB with [`VARIABLE`] set; that reads one small file and touches no network.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, ValueEnum};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Zsh};

use super::failure::Failure;
use super::home::Home;
use super::known::Known;
use super::{Globals, output};
use crate::domain::refusal::Code;

/// Names the shell that completes.
const VARIABLE: &str = "JIT_BROKER_COMPLETE";
/// The name that is completed.
const PROGRAM: &str = "jit-broker";

/// The shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// bash 4 or later, with bash-completion
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// `jit-broker completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
    /// Writes it where the shell looks for it, instead of printing it
    #[arg(long)]
    install: bool,
}

impl Shell {
    fn engine(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &Bash,
            Self::Zsh => &Zsh,
            Self::Fish => &Fish,
        }
    }

    /// Where a person's own completions are, and what makes the shell look there.
    fn place(self) -> Option<(PathBuf, &'static str)> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = var("HOME")?;
        let data = || var("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
        Some(match self {
            Self::Bash => (
                data().join("bash-completion/completions").join(PROGRAM),
                "It counts in new shells; bash-completion reads it.",
            ),
            Self::Zsh => (
                data().join("zsh/site-functions/_jit-broker"),
                "In ~/.zshrc, before compinit: fpath=(~/.local/share/zsh/site-functions $fpath)",
            ),
            Self::Fish => (
                var("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("fish/completions/jit-broker.fish"),
                "It counts in new shells.",
            ),
        })
    }
}

impl CompletionsArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let program = std::env::current_exe().map_err(|e| Failure::local("this program", e))?;
        let mut script = Vec::new();
        let program = program.display().to_string();
        let written = self.shell.engine().write_registration(VARIABLE, PROGRAM, PROGRAM, &program, &mut script);
        written.map_err(|e| Failure::local("the script", e))?;
        let text = String::from_utf8(script).map_err(|e| Failure::local("the script", e))?;
        if !self.install {
            // As it is: a shell reads it.
            match globals.json() {
                true => output::answer(globals.output, "completions", serde_json::json!({ "text": text }), "", &[])?,
                false => print!("{text}"),
            }
            return Ok(ExitCode::SUCCESS);
        }
        let (path, note) = self.shell.place().ok_or_else(|| Failure::new(Code::LOCAL_IO, "HOME is not set."))?;
        let failed = |e: std::io::Error| Failure::local(path.display(), e);
        std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed)?;
        crate::signer::keys::replace(&path, text.as_bytes(), 0o644)?;
        output::done(globals.output, "completions.installed", &format!("{} is written. {note}", path.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Answers a shell that asks for completions, and ends then; does nothing otherwise.
pub fn answer_shell() {
    CompleteEnv::with_factory(|| with_candidates(super::command())).var(VARIABLE).completer(PROGRAM).complete();
}

/// What completes an argument.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Target,
    Role,
    Grant,
    Request,
    Answer,
    Duration,
}

/// By verb and argument; the verb `*` is any.
const KINDS: &[(&str, &str, Kind)] = &[
    ("*", "target", Kind::Target),
    ("*", "targets", Kind::Target),
    ("ssh", "words", Kind::Target),
    ("show", "name", Kind::Target),
    ("test", "name", Kind::Target),
    ("*", "role", Kind::Role),
    ("*", "for_", Kind::Duration),
    ("*", "duration", Kind::Duration),
    ("extend", "id", Kind::Grant),
    ("release", "id", Kind::Grant),
    ("revoke", "grant", Kind::Grant),
    ("approve", "id", Kind::Answer),
    ("deny", "id", Kind::Answer),
    ("show", "id", Kind::Request),
    ("wait", "id", Kind::Request),
    ("withdraw", "id", Kind::Request),
];

/// The command line with candidates for its values.
fn with_candidates(command: Command) -> Command {
    let verb = command.get_name().to_owned();
    let kind = |id: &str| KINDS.iter().find(|(v, a, _)| (*v == "*" || *v == verb) && *a == id).map(|(.., kind)| *kind);
    let command = command.mut_args(|arg| match kind(arg.get_id().as_str()) {
        Some(kind) => arg.add(ArgValueCandidates::new(move || candidates(kind))),
        None => arg,
    });
    command.mut_subcommands(with_candidates)
}

fn candidates(kind: Kind) -> Vec<CompletionCandidate> {
    if let Some(context) = std::env::var_os("JIT_BROKER_CONTEXT").and_then(|name| name.into_string().ok()) {
        let _ = super::home::choose(&context);
    }
    let known = Home::find().map(|home| Known::read(&home)).unwrap_or_default();
    let all: Vec<(String, String)> = match kind {
        Kind::Target => known.targets.into_iter().collect(),
        Kind::Role => {
            let roles: std::collections::BTreeSet<String> = known.roles.into_values().flatten().collect();
            roles.into_iter().map(|role| (role, String::new())).collect()
        }
        Kind::Grant => known.grants.into_iter().collect(),
        Kind::Answer => known.answer.into_iter().collect(),
        Kind::Request => known.mine.into_iter().chain(known.answer).chain(known.grants).collect(),
        Kind::Duration => ["15m", "30m", "1h", "2h", "4h"].map(|span| (span.to_owned(), String::new())).into(),
    };
    let told = |text: String| Some(crate::domain::text::shown(&text).into()).filter(|_| !text.is_empty());
    // Names come from a file: what is no plain word would be pasted into a command line.
    let plain = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    all.into_iter()
        .filter(|(word, _)| plain(word))
        .map(|(word, help)| CompletionCandidate::new(word).help(told(help)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_argument_that_is_completed_is_there() {
        fn all(command: &Command, out: &mut Vec<(String, String)>) {
            let name = command.get_name().to_owned();
            out.extend(command.get_arguments().map(|arg| (name.clone(), arg.get_id().to_string())));
            command.get_subcommands().for_each(|sub| all(sub, out));
        }
        let mut there = Vec::new();
        all(&super::super::command(), &mut there);
        for (verb, arg, _) in KINDS {
            assert!(there.iter().any(|(v, a)| (*verb == "*" || v == verb) && a == arg), "{verb} {arg}");
        }
        with_candidates(super::super::command()).debug_assert();
    }
}
