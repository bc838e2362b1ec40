//! Never more than this: the bounds that hold whatever policy says.
//!
//! Policy decides *may*; these are checked by every signing function of the crate, after policy, on the final spec.

use crate::key::PublicKey;
use crate::spec::{CertWindow, CriticalOption, Extension, HostSpec, Principals, UserSpec};

const DAY_S: u64 = 24 * 60 * 60;

/// The most address ranges in one `source-address`.
const MAX_SOURCE_RANGES: usize = 64;

/// The most extensions in one certificate, so that the widest spec stays readable.
const MAX_EXTENSIONS: usize = 16;

/// The longest forced command and extension value, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// The longest name of an extension of our own, in bytes.
const MAX_EXTENSION_NAME_BYTES: usize = 64;

/// Bounds on what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest user certificate, in seconds, backdating included.
    pub max_user_window_s: u64,
    /// The longest host certificate, in seconds.
    pub max_host_window_s: u64,
    /// The most principals in one certificate.
    pub max_principals: usize,
}

/// Why a spec is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The window is longer than allowed.
    #[error("the window is {length_s} s long, {max_s} s are allowed")]
    Window {
        /// The length asked for, in seconds.
        length_s: u64,
        /// The length allowed, in seconds.
        max_s: u64,
    },
    /// More principals than allowed.
    #[error("{count} principals, {max} are allowed")]
    Principals {
        /// The number asked for.
        count: usize,
        /// The number allowed.
        max: usize,
    },
    /// The subject key is the CA's own.
    #[error("the subject key is the CA's own key")]
    SubjectIsCa,
    /// `verify-required` on a key that is not a hardware key, where sshd ignores it silently.
    #[error("verify-required needs a hardware key")]
    VerifyRequiredNeedsHardware,
    /// An option or extension twice.
    #[error("an option or extension is named twice")]
    DuplicateOption,
    /// `source-address` without a range, or with too many.
    #[error("source-address lists 1 to {MAX_SOURCE_RANGES} ranges")]
    SourceAddress,
    /// A forced command that is empty, too long, or has control characters.
    #[error("a forced command is 1 to {MAX_TEXT_BYTES} bytes of text without control characters")]
    ForceCommand,
    /// More extensions than allowed.
    #[error("a certificate has at most {MAX_EXTENSIONS} extensions")]
    Extensions,
    /// An extension outside its grammar.
    #[error(
        "an extension is named like name@domain in [a-z0-9.-] and holds printable ASCII of at most {MAX_TEXT_BYTES} bytes"
    )]
    Extension,
}

impl Limits {
    /// The bounds of this product: a week for users (and a minute of backdating), 400 days for hosts.
    ///
    /// Policy stays far below the first: its own cap is a day unless an operator says otherwise.
    pub const STANDARD: Limits =
        Limits { max_user_window_s: 7 * DAY_S + 60, max_host_window_s: 400 * DAY_S, max_principals: 16 };

    /// Checks a user spec that `ca` is about to sign.
    ///
    /// # Errors
    /// The first bound that it crosses.
    pub fn check_user(&self, spec: &UserSpec, ca: &PublicKey) -> Result<(), LimitError> {
        check_window(spec.window, self.max_user_window_s)?;
        self.check_principals(&spec.principals)?;
        check_subject(&spec.key, ca)?;
        if spec.critical_map().len() != spec.critical.len() || spec.extension_map().len() != spec.extensions.len() {
            return Err(LimitError::DuplicateOption);
        }
        if spec.extensions.len() > MAX_EXTENSIONS {
            return Err(LimitError::Extensions);
        }
        spec.critical.iter().try_for_each(|option| check_critical(option, &spec.key))?;
        spec.extensions.iter().try_for_each(check_extension)
    }

    /// Checks a host spec that `ca` is about to sign.
    ///
    /// # Errors
    /// The first bound that it crosses.
    pub fn check_host(&self, spec: &HostSpec, ca: &PublicKey) -> Result<(), LimitError> {
        check_window(spec.window, self.max_host_window_s)?;
        self.check_principals(&spec.principals)?;
        check_subject(&spec.key, ca)
    }

    fn check_principals(&self, principals: &Principals) -> Result<(), LimitError> {
        let (count, max) = (principals.as_slice().len(), self.max_principals);
        if count > max { Err(LimitError::Principals { count, max }) } else { Ok(()) }
    }
}

fn check_subject(key: &PublicKey, ca: &PublicKey) -> Result<(), LimitError> {
    // SECURITY: the CA's own key as a subject would make whoever holds the CA also a principal, and mixes purposes.
    if key == ca { Err(LimitError::SubjectIsCa) } else { Ok(()) }
}

fn check_window(window: CertWindow, max_s: u64) -> Result<(), LimitError> {
    let length_s = window.length_s();
    if length_s > max_s { Err(LimitError::Window { length_s, max_s }) } else { Ok(()) }
}

fn check_critical(option: &CriticalOption, key: &PublicKey) -> Result<(), LimitError> {
    match option {
        CriticalOption::SourceAddress(ranges) if ranges.is_empty() || ranges.len() > MAX_SOURCE_RANGES => {
            Err(LimitError::SourceAddress)
        }
        CriticalOption::ForceCommand(command)
            if command.trim().is_empty() || command.len() > MAX_TEXT_BYTES || command.chars().any(char::is_control) =>
        {
            Err(LimitError::ForceCommand)
        }
        // SECURITY: on a plain key sshd accepts the option and does not enforce it; a promise nobody keeps is refused.
        CriticalOption::VerifyRequired if !key.is_hardware() => Err(LimitError::VerifyRequiredNeedsHardware),
        _ => Ok(()),
    }
}

fn check_extension(extension: &Extension) -> Result<(), LimitError> {
    let Extension::Named { name, value } = extension else { return Ok(()) };
    let word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
    };
    let named = name.len() <= MAX_EXTENSION_NAME_BYTES && name.split_once('@').is_some_and(|(a, b)| word(a) && word(b));
    let printable = value.len() <= MAX_TEXT_BYTES && value.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if named && printable { Ok(()) } else { Err(LimitError::Extension) }
}
