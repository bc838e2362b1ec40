//! The manual pages, made from the command line itself, so that they say what it does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::failure::Failure;
use super::{Globals, output};

/// `jit-broker man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder that the pages are written into; packages take .../man/man1
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

const STATUS: [(&str, &str); 18] = [
    ("0", "done; an empty list too"),
    ("1", "failed, unclassified"),
    ("2", "usage"),
    ("3", "cancelled at a prompt"),
    ("4", "not signed in"),
    ("5", "denied, by policy or by a person"),
    ("6", "still pending when the wait ended"),
    ("7", "over: ended, revoked, released, lapsed, withdrawn, expired, cancelled, invalidated"),
    ("8", "no such target, request, grant, session"),
    ("9", "refused locally: clock, unsafe file mode, unknown host CA"),
    ("10", "residue: ended, but the end is not proven on a target yet"),
    ("11", "audit verify: sound, but the tail is attested by nobody outside"),
    ("69", "the broker cannot be reached"),
    ("70", "a defect; report the text that was printed"),
    ("78", "bad configuration"),
    (
        "125, 126, 127",
        "ssh, psql, exec: jit-broker failed before the program, it could not be run, it was not found; otherwise its own",
    ),
    ("130", "interrupted"),
    ("254", "of ssh through the gateway: the session was cut"),
];

const ENVIRONMENT: [(&str, &str); 8] = [
    ("JIT_BROKER_HOME", "one folder for all that the client keeps; otherwise the XDG folders"),
    ("JIT_BROKER_SERVER", "the broker of the first sign-in, https://HOST[:PORT]"),
    ("JIT_BROKER_CA_FILE", "the PEM file of the server's authority"),
    ("JIT_BROKER_CONTEXT", "one of several brokers"),
    ("JIT_BROKER_OUTPUT", "how answers are written: auto, table, json, jsonl, name"),
    ("JIT_BROKER_NO_INPUT", "set: nobody is asked anything; so does CI"),
    ("JIT_BROKER_LOG", "how much is logged on stderr: error, warn, info, debug, trace"),
    ("NO_COLOR, CLICOLOR_FORCE, TERM", "as usual"),
];

const FILES: [(&str, &str); 5] = [
    ("$XDG_CONFIG_HOME/jit-broker", "the broker that is pinned, and ssh's configuration"),
    (
        "$XDG_STATE_HOME/jit-broker",
        "the newest checkpoint of the log that this machine has seen, and names for completion",
    ),
    (
        "$XDG_RUNTIME_DIR/jit-broker",
        "keys, certificates, the sign-in; in the state folder where the variable is not set",
    ),
    ("/etc/jit-broker/jit-broker.toml", "the broker's configuration"),
    ("/etc/ssh/jit-broker", "on an enrolled host: authority, principals, revocation list"),
];

impl ManArgs {
    /// Writes every page.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let failed = |e: std::io::Error| Failure::local(self.out.display(), e);
        std::fs::create_dir_all(&self.out).map_err(failed)?;
        let mut count = 0;
        let mut command = super::command().disable_help_subcommand(true);
        command.build();
        pages(&command, &self.out, &mut count).map_err(failed)?;
        let said = format!("{} in {}", output::count(count, "page"), self.out.display());
        output::done(globals.output, "man.written", &said)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// One page for a verb and each below it, `jit-broker-host-enroll.1`.
fn pages(command: &Command, dir: &Path, count: &mut usize) -> std::io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    for sub in shown {
        pages(sub, dir, count)?;
    }
    *count += 1;
    std::fs::write(dir.join(format!("{name}.1")), page(command, &name)?)
}

fn page(command: &Command, name: &str) -> std::io::Result<Vec<u8>> {
    let main = !name.contains("jit-broker-");
    let man = Man::new(command.clone()).title(name.to_uppercase()).manual("jit-broker");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    if let Some(text) = command.get_after_long_help().map(ToString::to_string) {
        examples(&text).to_writer(&mut out)?;
    }
    if main {
        table("EXIT STATUS", &STATUS).to_writer(&mut out)?;
        table("ENVIRONMENT", &ENVIRONMENT).to_writer(&mut out)?;
        table("FILES", &FILES).to_writer(&mut out)?;
    } else {
        let mut roff = Roff::default();
        roff.control("SH", ["SEE ALSO"]);
        roff.text([
            bold("jit-broker"),
            roman("(1) has the exit statuses, the environment and the files; "),
            bold("jit-broker explain CODE"),
            roman(" explains an error."),
        ]);
        roff.to_writer(&mut out)?;
    }
    Ok(out)
}

fn examples(text: &str) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["EXAMPLES"]);
    for line in text.lines().skip(1) {
        roff.control("PP", []);
        roff.control("nf", []);
        roff.text([roman(line)]);
        roff.control("fi", []);
    }
    roff
}

fn table(head: &str, rows: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", [head]);
    for (name, text) in rows {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*text)]);
    }
    roff
}
