//! Every code that a refusal or an error can have, with its exit code, its HTTP status and what `explain` says.
//!
//! JB1 words and forms · JB2 policy · JB3 state · JB4 identity and signatures · JB5 signer · JB6 ledger · JB7 client · JB8 configuration · JB9 targets.
// The titles name sections of files, `[trust]`, which are no links.
#![allow(rustdoc::broken_intra_doc_links)]

use serde::{Deserialize, Serialize};

/// A stable code such as `JB2003`; scripts rely on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Code(u16);

/// What is known of a code.
#[derive(Debug)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// A few words.
    pub title: &'static str,
    /// The process exit status of a command that fails with it (cli.md).
    pub exit: u8,
    /// The HTTP status of an answer that carries it.
    pub http: u16,
    /// The next command, where it is always the same.
    pub next: Option<&'static str>,
    /// Why it happens and what to do, for `jit-broker explain`.
    pub explain: &'static str,
}

macro_rules! codes {
    ($($name:ident = $number:literal, $exit:literal, $http:literal, $title:literal, $next:expr, $explain:literal;)*) => {
        impl Code {
            $(#[doc = $title] pub const $name: Code = Code($number);)*
        }
        /// All codes, in order.
        pub const ENTRIES: &[Entry] = &[
            $(Entry { code: Code($number), title: $title, exit: $exit, http: $http, next: $next, explain: $explain },)*
        ];
    };
}

codes! {
    BAD_ACT = 1001, 2, 400, "an act that cannot be read", None,
        "A signed act must be canonical JSON of a known kind: sorted keys, integers only, no unknown field. A client of another version, or a text changed on its way, causes this. Compare `jit-broker --version` on both sides.";
    BAD_TEXT = 1002, 2, 400, "a text that is not taken", None,
        "Reasons have at most 2000 characters, tickets 64, all on one line, without control, bidirectional or invisible characters: these could show an approver something else than what is signed.";
    BAD_DURATION = 1003, 2, 400, "a duration that cannot be granted", Some("Write it like 30m, 2h30m or PT2H30M."),
        "A duration is a whole number of seconds above zero and at most 366 days, written like 30s, 45m, 2h30m, 1d or PT2H30M.";
    BAD_NAME = 1004, 2, 400, "a name that cannot be one", None,
        "Names of people, groups, targets, roles and logins have a strict grammar, because they end up in certificates, files and commands. The message states the rule.";
    BAD_BODY = 1005, 2, 400, "a request body that cannot be read", None,
        "The body was not the JSON document that this route takes, had unknown fields, or was larger than 128 KiB (a bundle: 1 MiB).";
    BAD_KEY = 1006, 2, 400, "a key that cannot be certified or used", None,
        "Certificates are made for Ed25519, ECDSA P-256/P-384, RSA from 2048 to 8192 bits, and sk- keys that ask for a touch. Acts and sign-in take all of these but RSA. Certificates, DSA and keys of the broker's own authority are refused.";
    USAGE = 1007, 2, 400, "a command that is not complete", None,
        "Something that the command needs was not said, and nobody could be asked for it (no terminal, or --no-input). The message names the flag.";
    MISSING = 1008, 8, 404, "no such thing", None,
        "There is no object of that name or id, or you may not know of it.";
    AMBIGUOUS = 1009, 2, 400, "an id that fits several things", Some("Type more of the id."),
        "Any unique prefix of an id is accepted; this one fits more than one object.";

    NO_RULE = 2001, 5, 403, "no rule grants this", Some("jit-broker ls shows what you may ask for."),
        "By default nobody has access to anything: a rule must name the person, the target and the role. `jit-broker why TARGET --role R` tells what policy says.";
    FORBIDDEN = 2002, 5, 403, "a forbid rule matches", None,
        "A [[forbid]] refuses whatever other rules say. `jit-broker why` names it; it may depend on the time of day.";
    TOO_LONG = 2003, 5, 403, "longer than policy allows", None,
        "Each rule has a longest duration; the shortest of all matching rules counts. Ask for less: the message says how much.";
    NEEDS_REASON = 2004, 5, 403, "a reason is needed", Some("Add --reason \"…\"."),
        "A matching rule demands a reason of a certain length, for those who approve and those who audit.";
    NEEDS_TICKET = 2005, 5, 403, "a ticket is needed", Some("Add --ticket ID."),
        "A matching rule demands a ticket of a certain form.";
    NOT_APPROVABLE = 2006, 5, 403, "nobody can approve this", None,
        "A step needs more different people than there are, the requester not counted. An administrator must change the rule or the groups.";
    CONDITION_FAILED = 2007, 5, 403, "a condition of policy could not be evaluated", None,
        "A CEL condition of a rule that matches ended with an error, so the request is refused: dropping the rule could let a laxer one win. An administrator must mend the rule.";
    NO_ROLE = 2008, 8, 404, "the target has no such role", Some("jit-broker ls TARGET shows its roles."),
        "Roles are defined per target in targets.toml.";
    NOT_ELIGIBLE = 2009, 5, 403, "you are not asked here", Some("jit-broker pending shows what is yours to answer."),
        "The open step asks other people. Who may answer follows from the groups in the adopted bundle at this moment.";
    OWN_REQUEST = 2010, 5, 403, "nobody approves their own access", None,
        "The person who asked, and whoever acts for them, never counts as an approver.";
    NEEDS_PRESENCE = 2011, 5, 403, "a touch is needed", Some("Sign with a security key: --ssh-key ~/.ssh/id_ed25519_sk."),
        "The step has `presence = true`: the approval must be signed by a security key that was touched.";
    NOT_OFFICE = 2012, 5, 403, "this needs an office you do not hold", None,
        "Administrators apply bundles and enrol; operators disable people and end access; auditors read the whole log. Offices are named in people.toml and in [trust].";
    REJUDGED = 2013, 7, 409, "policy no longer grants this", Some("Ask again: jit-broker request TARGET --reason \"…\"."),
        "A request is judged again when a step completes, and when the first credential is asked for. By then the rules, the people or the target had changed.";
    NOT_AUTOMATIC = 2014, 5, 403, "an automatic rule whose condition does not hold", Some("jit-broker why TARGET --role R"),
        "A rule that asks nobody grants only while its condition holds, for example soon after a sign-in. Other rules that match cannot make good for it; `jit-broker why` names the rule and the condition.";

    FINAL = 3001, 7, 409, "it is over", Some("Ask again: jit-broker request TARGET --reason \"…\"."),
        "A request has one outcome, and a grant one end; neither changes afterwards.";
    STALE_TERMS = 3002, 7, 409, "the terms are not those that stand", Some("jit-broker review shows what is asked now."),
        "An approval signs exactly what is granted: role, duration, logins, the target's address and host identity. What you signed differs from what stands, so it does not count.";
    NOT_NARROWER = 3003, 2, 400, "approving can only make it less", None,
        "An approver may shorten the time, or choose a role that the target declares narrower than the one asked for.";
    PENDING = 3004, 6, 409, "not decided yet", None,
        "People still have to answer. `jit-broker wait ID` waits, `jit-broker show ID` tells who is asked.";
    TWICE = 3005, 5, 409, "you answered this already", None,
        "Each person counts once, in whatever groups they are.";
    WINDOW_CLOSED = 3006, 7, 409, "the window is closed", Some("Ask again: jit-broker request TARGET --reason \"…\"."),
        "The grant's time is over or it was ended; nothing is issued under it any more.";
    OTHER_KEY = 3007, 5, 403, "the grant is for another key", Some("jit-broker cert TARGET --key PUB binds one more key to the grant."),
        "A request names the public key that the certificate will be for. Another key of the same person must be bound by a signed act of its own.";
    TOO_MANY = 3008, 5, 429, "too many credentials under one grant", None,
        "A grant may have a limited number of different keys and re-issues. Release it and ask again.";
    RESIDUE = 3009, 10, 409, "the end is not proven yet", Some("jit-broker status"),
        "The access has ended at the broker, but a host has not confirmed the revocation list. It is retried; the certificate dies by itself at the latest end shown.";
    DENIED = 3010, 5, 403, "a person said no", None,
        "Someone who was asked denied the request; the reason is with it: `jit-broker show ID`.";
    STALE_BUNDLE = 3011, 7, 409, "the bundle changed meanwhile", Some("jit-broker apply --dry-run shows the new plan."),
        "Somebody applied another bundle after you made the plan. Look at the difference again.";
    BUNDLE_REFUSED = 3012, 78, 400, "the bundle cannot be adopted", Some("jit-broker policy check DIR lists every problem."),
        "The files do not parse, contradict each other, or their own tests fail. Nothing was changed.";

    LAST_ADMIN = 3013, 5, 409, "the last administrator", Some("Have another administrator enrolled first."),
        "Disabling this person, revoking this key or adopting this bundle would leave no administrator who can act. A key that was stolen and is the last one is replaced first.";

    TOO_OFTEN = 3014, 1, 429, "too many acts", Some("Wait a moment."),
        "One person may have a thousand acts decided at once, and ten more each second. Whatever ends access is always taken.";

    NOT_STAGED = 3016, 2, 409, "no such step now", Some("jit-broker ca rotate --status"),
        "An authority is replaced in steps: a new key is staged, then activated, then the old one is retired. This step does not follow from where it stands.";
    NOT_HEARD = 3017, 6, 409, "not everybody has heard yet", Some("jit-broker ca rotate --status"),
        "The step would shut out hosts, databases or people who do not know the new key yet, or hold certificates of the old one. They are named. Wait for them, or say --force.";

    NOT_SIGNED_IN = 4001, 4, 401, "not signed in", Some("jit-broker auth login"),
        "The command needs a session. It is renewed silently where the ssh-agent or the key file allows it.";
    BAD_SIGNATURE = 4002, 5, 403, "the signature does not hold", None,
        "Acts are signed with SSHSIG in the namespace act@jit-broker by a key that the broker knows for that person. A changed byte, another key or another namespace is refused.";
    UNKNOWN_KEY = 4003, 4, 401, "the key is not known", Some("Give your public key to an administrator; it goes into people.toml, then `jit-broker apply`."),
        "No active person has this key. Keys come from the adopted bundle or were enrolled by an administrator. Keys that were revoked stay refused.";
    DISABLED = 4004, 5, 403, "the person is disabled", None,
        "An operator disabled this person. Only `jit-broker person enable` lifts it.";
    WRONG_INSTALL = 4005, 5, 403, "signed for another installation", Some("jit-broker auth login"),
        "Every act names the installation it is for, so that it is worthless anywhere else.";
    STALE_ACT = 4006, 9, 400, "signed at another time", Some("Compare the clocks of this machine and of the broker."),
        "An act says when it was signed; it must arrive within five minutes by the broker's clock.";
    BAD_CHALLENGE = 4007, 4, 401, "the sign-in challenge is not ours", Some("jit-broker auth login"),
        "Sign-in answers a fresh challenge of this broker once, within a minute.";

    SIGNER_REFUSED = 5001, 5, 403, "the signer refused", None,
        "The signer folds the log for itself and found no grant, approval or key that justifies the order. That is a defect or an attack: look at the signer's own log.";
    SIGNER_AWAY = 5002, 69, 503, "the signer does not answer", Some("systemctl status jit-broker-signer"),
        "The broker cannot reach the signer's socket. Nothing is issued until it is back; ends go on.";
    LINT = 5003, 70, 500, "a certificate failed its inspection", None,
        "What was signed is parsed again and compared before it leaves; this one differed and was destroyed.";
    CLOCK = 5004, 9, 503, "the clock cannot be trusted", Some("timedatectl shows whether the clock is synchronised; an operator says that it is right by: jit-broker clock confirm"),
        "Wall clock and boot-time clock drifted apart, or the wall clock is behind the log. Nothing is issued until the clock is synchronised or an operator confirms it. Ends go on.";
    LOG_LIES = 5005, 70, 503, "the log is not the one the signer knows", Some("jit-broker audit verify"),
        "The daemon showed the signer a log that is shorter, forked, or holds an entry that the rules do not justify. Nothing is signed until this is understood.";

    KEY_GONE = 5006, 78, 503, "a key of the authority is gone", Some("Restore it into [ca].dir: jit-broker restore FILE --dir DIR, and copy it from there."),
        "The log names a key of an authority that is not among the signer's files. What that authority signs is not issued; everything else goes on. Restore the file from a backup, or replace the authority: `jit-broker ca rotate KIND`.";

    RECOVERY = 5007, 9, 503, "in recovery: nothing is signed", Some("Administrators: jit-broker audit begin-epoch"),
        "This broker was restored from a backup, or its log is shorter than what its signer signed. Whether entries are lost only copies outside can tell: the administrators' clients have them. Nothing is signed until `audit begin-epoch` says what is known, signed by two administrators, or by the one there is. Then serials and revocation lists jump ahead, and everything goes on.";

    LEDGER_DOWN = 6001, 1, 503, "the log cannot be written", Some("Look at the disk of state_dir, then at the broker's log."),
        "If the log cannot be written nothing is granted. Reading, and ends from memory, go on.";
    LEDGER_HELD = 6002, 78, 503, "another daemon holds the ledger", None,
        "Only one daemon may write a ledger. The message names its process where that is known.";
    LEDGER_NEWER = 6003, 78, 503, "the ledger is newer than this program", None,
        "A newer jit-broker wrote this ledger. Start that version.";
    LEDGER_CORRUPT = 6004, 70, 503, "the ledger does not fit its own tree", Some("jit-broker audit verify --offline DIR"),
        "Stored bytes do not hash to what the checkpoints say. Keep the file, and compare with outside copies.";
    DISK_FULL = 6005, 1, 503, "the disk is full", Some("Free space below state_dir."),
        "A write failed for lack of space. Nothing was half done: the request was not accepted.";
    NOT_IN_LOG = 6011, 1, 404, "a certificate that the log does not know", Some("Tell your administrators, and keep the certificate."),
        "No entry of the log allows these bytes to be signed. If an authority of this installation signed them, its key was used behind the log's back: revoke, and replace the authority. Certificates of the gateway's own host key and of the HTTPS server are not entries.";
    FALSE_PROOF = 6012, 1, 400, "a receipt that does not hold", Some("Ask for another one, and keep both."),
        "Something in the receipt does not follow: a signature, the place of an entry in the log, the digest of a text, or what the rules make of what people signed. The message says which. Nothing in it may be believed.";
    OUTSIDE_KNOWS_MORE = 6013, 70, 503, "an outside copy knows more of this log", Some("jit-broker audit verify --offline DIR --witness NOTE"),
        "A witness of jit-broker.toml holds a checkpoint of a longer log, or of another one, than the ledger here: the ledger was rolled back or forked, so nothing is signed. Put the newest copy of the ledger back. If the entries are lost for good, that is a restore: it is acknowledged by a new epoch (`jit-broker audit begin-epoch`), under whose name witnesses begin anew. A witness that is itself wrong is taken out of jit-broker.toml.";

    UNREACHABLE = 7001, 69, 503, "the broker cannot be reached", Some("jit-broker auth status"),
        "No connection, or no answer in time. Certificates that you hold work on until their end.";
    ROLLED_BACK = 7002, 9, 409, "the broker shows an older or another log", Some("Keep both notes, and tell your administrators."),
        "This client remembers a newer checkpoint than the broker shows, or one that is no prefix of it. Somebody restored an old copy or forked the log.";
    UNTRUSTED_SERVER = 7003, 9, 403, "the server is not the one that is pinned", Some("Compare with the fingerprint that your administrator gave you."),
        "The TLS certificate does not lead to the pinned authority or fingerprint. There is no switch that ignores this.";
    UNSAFE_FILE = 7004, 9, 403, "a file that others can read or change", Some("chmod 600 FILE"),
        "Keys, sessions and their folders must belong to you and be closed to others.";
    NO_KEY = 7005, 4, 401, "no key to sign with", Some("ssh-add, or --ssh-key FILE."),
        "Acts are signed by your SSH key: from the ssh-agent, or a file. Neither had one that the broker knows.";
    CANCELLED = 7006, 3, 400, "cancelled", None,
        "You said no at a prompt, or pressed Ctrl-C. Nothing was sent.";
    LOCAL_IO = 7007, 1, 500, "a local file or program failed", Some("ls -ld and df -h of what the message names; journalctl -k, where the disk itself failed"),
        "Reading or writing a file on this machine, or starting a program, failed; the message says which.";
    EPOCH = 7008, 9, 409, "entries that were seen are lost", Some("jit-broker auth acknowledge, once your administrators have confirmed it"),
        "The broker's log began a new epoch after a restore, and it does not have entries that this client has seen. Administrators acknowledged that in the log. Ask them, then acknowledge it here; the old checkpoint is kept aside.";
    TRUST_RESET = 7009, 9, 409, "the administrators were replaced", Some("jit-broker auth acknowledge, once you have asked whoever runs the broker"),
        "Whoever is root on the broker replaced its administrators, without anybody's signature (`trust reset`). That is how a lost administrator's key is mended, and how a broker is taken over. Ask by another way, then acknowledge it here; it is asked once.";

    BUG = 7070, 70, 500, "a defect", Some("Report it with the text above."),
        "Something happened that should be impossible.";

    BAD_CONFIG = 8001, 78, 400, "the configuration is wrong", Some("jit-broker check --config FILE"),
        "A file does not parse, has an unknown key, or contradicts another. Every problem is listed with its line.";
    PORT_TAKEN = 8002, 78, 400, "the port is taken", Some("ss -ltnp shows who listens; change [server].listen."),
        "Another program listens on that address.";
    NOT_EMPTY = 8003, 78, 400, "there is something already", None,
        "`init` never overwrites. Choose an empty folder.";
    PINNED_TRUST = 8004, 78, 400, "[trust] differs from the log's first entry", Some("jit-broker explain JB8004"),
        "The first administrators are pinned in leaf 0. Changing [trust] in the file does not change them; an administrator's later keys are enrolled by signed acts. Where every administrator's key is lost: change [trust], stop the daemon, restart a signer that is a service of its own, and `jit-broker trust reset --config FILE` as root; every client must acknowledge that once.";
    BAD_MODE = 8005, 78, 400, "a file mode that is too open", Some("chmod 600 FILE; chmod 700 FOLDER"),
        "Keys and the ledger must be closed to everybody but the service's user, or nothing starts.";
    HEAD_GONE = 8006, 78, 400, "the signer's memory of the log is gone", Some("jit-broker restore --in-place --config FILE (as root where services run), then jit-broker audit begin-epoch"),
        "Beside its keys the signer keeps head.json: how much of which log it has signed. `init` makes it. Without it a log that was cut, forked or made anew would be signed, so nothing starts. `restore --in-place` takes the newest checkpoint of the log that is there for it, and puts the signer into recovery until administrators have said what is known.";

    BAD_BACKUP = 8007, 78, 400, "a backup that cannot be used", None,
        "The passphrase is wrong, or the file is no backup, was cut off or changed: its pieces are sealed, so that none of that goes unseen. Nothing was restored.";

    TARGET_AWAY = 9001, 1, 503, "a target's server cannot be used now", None,
        "The server of the target did not answer, has no connection left, or takes no writes. Nothing is lost: an account that is planned is made when it is asked for again, and one that is over is removed as soon as the server is back. `jit-broker target test TARGET` shows which link is broken.";
    TARGET_REFUSED = 9002, 1, 502, "a target's server refused", None,
        "The server of the target answered, and refused the broker's login or a statement. `jit-broker target test TARGET` shows each link and the SQL or the line of pg_hba.conf that is missing.";
    SECRET = 9003, 78, 500, "a secret that cannot be used", None,
        "The target names a secret that [secrets] of jit-broker.toml does not have, that cannot be read, or that may not be sent to this address. A secret goes only where `for` says.";
}

impl Code {
    /// What is known of this code.
    pub fn entry(self) -> &'static Entry {
        // Only constants of this table make a Code, and deserialising checks it: the fallback is the defect's own entry.
        ENTRIES.iter().find(|e| e.code == self).unwrap_or(&ENTRIES[0])
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JB{:04}", self.0)
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A text that is not one of our codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such code")]
pub struct CodeError;

impl std::str::FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let digits = text.strip_prefix("JB").or_else(|| text.strip_prefix("jb")).unwrap_or(text);
        let number: u16 = digits.parse().map_err(|_| CodeError)?;
        ENTRIES.iter().map(|e| e.code).find(|c| c.0 == number).ok_or(CodeError)
    }
}

impl TryFrom<String> for Code {
    type Error = CodeError;

    fn try_from(text: String) -> Result<Self, CodeError> {
        text.parse()
    }
}

impl From<Code> for String {
    fn from(code: Code) -> String {
        code.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_are_unique_and_round_trip() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in ENTRIES {
            assert!(seen.insert(entry.code), "{} twice", entry.code);
            assert_eq!(entry.code.to_string().parse::<Code>().unwrap(), entry.code);
            assert!(entry.explain.ends_with('.') && !entry.title.ends_with('.'), "{}", entry.code);
        }
    }
}
