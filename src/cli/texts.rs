//! What `--help` and the manual pages say beyond one line a flag: what a verb is for, and examples that can be typed.

use clap::Command;

/// Verb, what it is for, examples.
type Text = (&'static str, &'static str, &'static str);

/// The name of the first page.
const MAIN: &str = "jit-broker";

const TEXTS: &[Text] = &[
    (
        MAIN,
        "Nobody has standing access. A person asks for a role on a host or a database, for a reason and for a time; policy grants it, \
         refuses it, or names who must agree. What is granted is a certificate or an account that ends with the window.\n\n\
         Whoever asks needs two verbs: `auth login` once, and then plain ssh (after `ssh-config --install`) or `login`. Whoever agrees \
         needs `review`. `doctor` finds what is wrong on this machine.",
        "jit-broker auth login --server https://broker.corp:7443 --fingerprint SHA256:... --as alice\n\
         jit-broker ssh-config --install && ssh web-07\n\
         jit-broker login db-prod --role rw --for 30m --reason \"mend rows for OPS-2\"\n\
         jit-broker review",
    ),
    (
        "login",
        "Gets access and leaves the credential where the usual programs find it. Where a grant covers the wish already, nobody is asked. \
         Otherwise the request is made, the people who must agree are shown, and the answer is waited for.\n\n\
         With --agent the key and certificate are also given to the ssh-agent, for programs that read no OpenSSH configuration; the agent \
         drops them at the grant's end.",
        "jit-broker login web-07\njit-broker login web-07 --role deploy --for 30m --reason \"hotfix for OPS-1\"\n\
         jit-broker login web-07 --agent",
    ),
    (
        "request",
        "Asks, and does not fetch a credential. On a terminal the answer is waited for; elsewhere it returns at once, and `wait` or `show` \
         tell how it came out.",
        "jit-broker request web-07 web-08 --role deploy --for 1h --reason \"rollout of OPS-1\"\n\
         jit-broker request web-07 --role deploy --dry-run",
    ),
    (
        "extend",
        "Asks that a grant go on. People agree to it as to the first; what comes of it is a grant of its own that ends later. Open sessions \
         through the gateway go on under it. Policy's longest time counts from now to the new end.",
        "jit-broker extend gr_3f --for 30m --reason \"the migration takes longer\"",
    ),
    (
        "review",
        "Shows each request that waits for you with all that is known of it: who asks, what it opens and allows, why, what they had before. \
         What you agree to is computed on this machine from what they signed and from the adopted files, never taken from the broker's word.\n\n\
         a approves, s 10m approves for less, d TEXT denies and tells them why, w shows the rules, n leaves it, q ends.",
        "jit-broker review\njit-broker pending --watch\njit-broker approve amber-otter --for 20m\n\
         jit-broker deny amber-otter --reason \"not on a friday\"",
    ),
    (
        "why",
        "Says what policy would answer, which rules say so, and the nearest thing that would be granted. It asks nobody.",
        "jit-broker why web-07 --role deploy --for 2h\njit-broker why web-07 --as alice",
    ),
    (
        "ssh-config",
        "Writes one file of its own and one Include line at the top of ~/.ssh/config; no other line is touched. From then on ssh, scp, sftp, \
         rsync, git and everything that uses them ask for access by themselves, on a terminal, where there is none.",
        "jit-broker ssh-config --print\njit-broker ssh-config --install\njit-broker ssh-config --remove",
    ),
    (
        "revoke",
        "Ends access now and shows each proof of the end as it comes. Exit status 10 says that a proof is missing still; it is tried again \
         for ever.",
        "jit-broker revoke gr_3f --reason \"wrong host\"\njit-broker revoke --person mallory --reason \"INC-7\"",
    ),
    (
        "exec",
        "Runs a program with the credentials of one or more databases in its environment. The first target's settings are the PG* \
         variables; each target is a service of its own in PGSERVICEFILE. The exit status is the program's.",
        "jit-broker exec db-prod -- pg_dump -t notes\n\
         jit-broker exec db-a db-b -- sh -c 'pg_dump service=db-a | psql service=db-b'",
    ),
    (
        "doctor",
        "Looks for what is wrong and says the command that mends it. On a person's machine: the broker and its fingerprint, clocks, the key, \
         file modes, ssh's configuration. With --config, on the broker: clock, keys and signer, the log, the adopted files, approvers, disk, \
         hosts. On an enrolled host: its revocation list. Exit status 1 with findings.",
        "jit-broker doctor\njit-broker doctor --config /etc/jit-broker/jit-broker.toml\njit-broker doctor -o json",
    ),
    (
        "completions",
        "Prints what makes a shell complete verbs, flags, and the names and ids that this machine has seen. TAB never uses the network.",
        "jit-broker completions bash --install\nsource <(jit-broker completions bash)\n\
         jit-broker completions fish | source",
    ),
    (
        "host enroll",
        "Makes a host trust the broker: user authority, principals, revocation list, host certificate, sshd lines, and the timer that keeps \
         the list fresh. With --ssh the steps are run on the host and each is proven; with --print they are a script to read and to run as root. \
         authorized_keys and passwords go on working.",
        "jit-broker host enroll web-07 --ssh root@10.0.3.7\n\
         jit-broker host enroll web-07 --key web-07.pub --print > web-07.sh\njit-broker host leave web-07 --ssh root@10.0.3.7",
    ),
    (
        "policy who-can",
        "Lists everybody who may have a role on a target, at once or after whose answer, for how long, and by which rules. It reads the \
         adopted files, or those of a folder.",
        "jit-broker policy who-can web-07\njit-broker policy who-can web-07 --role deploy --dir ./broker",
    ),
    (
        "session export",
        "Writes a recording in another form. Control sequences that could harm the terminal of whoever plays it are dropped; --raw keeps \
         every byte as it passed.",
        "jit-broker session export ses_9k --format cast -O session.cast && asciinema play session.cast\n\
         jit-broker session export ses_9k --format txt",
    ),
];

/// Puts the texts into the command line.
pub fn with_texts(command: Command) -> Command {
    let command = match text(MAIN) {
        Some(found) => put(command, found),
        None => command,
    };
    command.mut_subcommands(|sub| below(sub, ""))
}

fn below(command: Command, path: &str) -> Command {
    let path = format!("{path}{}", command.get_name());
    let command = match text(&path) {
        Some(found) => put(command, found),
        None => command,
    };
    command.mut_subcommands(|sub| below(sub, &format!("{path} ")))
}

fn text(path: &str) -> Option<&'static Text> {
    TEXTS.iter().find(|(verb, ..)| *verb == path)
}

fn put(command: Command, (_, long, examples): &'static Text) -> Command {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let examples: String = examples.lines().map(|line| format!("\n    {line}")).collect();
    command.long_about(format!("{about}.\n\n{long}")).after_long_help(format!("Examples:{examples}"))
}

/// The verbs that have a text, for the test that each is a verb.
#[cfg(test)]
pub(super) fn verbs() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|(verb, ..)| *verb).filter(|verb| *verb != MAIN)
}
