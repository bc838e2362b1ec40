//! The words of a certificate, as types that cannot hold a bad value, and the two specs made of them.
//!
//! Nothing here is folded, trimmed or defaulted: principals are compared by hosts as bytes, so they are kept as bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::key::PublicKey;

/// The longest key ID and principal, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// The most principals that OpenSSH reads in one certificate (`SSHKEY_CERT_MAX_PRINCIPALS`).
pub const MAX_PRINCIPALS: usize = 256;

/// Why a word may not stand in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A serial of 0 or above 2^63-1.
    #[error("a serial is within 1..=2^63-1")]
    Serial,
    /// A key ID outside its grammar.
    #[error("a key ID is 1 to {MAX_NAME_BYTES} of the characters A-Z a-z 0-9 . _ : -")]
    KeyId,
    /// A principal outside its grammar.
    #[error(
        "a principal is 1 to {MAX_NAME_BYTES} printable ASCII characters without space , * ? quotes \\ ` $ and does not start with - or @"
    )]
    Principal,
    /// No principal, which some OpenSSH versions read as "any".
    #[error("a certificate names at least one principal")]
    NoPrincipals,
    /// More principals than OpenSSH reads.
    #[error("a certificate names at most {MAX_PRINCIPALS} principals")]
    TooManyPrincipals,
    /// A principal twice.
    #[error("a principal is named twice")]
    DuplicatePrincipal,
    /// An empty or endless window.
    #[error("a window starts before it ends, and ends before 2^63")]
    Window,
    /// Not an address range, or one with host bits set, which sshd refuses at login.
    #[error("an address range is written as 192.0.2.0/24 or 2001:db8::/32, with all host bits zero")]
    Cidr,
}

/// A certificate's serial, unique per CA for ever: 1 to 2^63-1.
///
/// Zero cannot be put on a KRL, and our stores keep signed integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(u64);

impl Serial {
    /// The largest serial.
    pub const MAX: Serial = Serial(i64::MAX as u64);

    /// Takes a number as a serial.
    ///
    /// # Errors
    /// [`SpecError::Serial`] for 0 and for what needs 64 bits.
    pub fn new(value: u64) -> Result<Self, SpecError> {
        if value == 0 || value > Self::MAX.0 { Err(SpecError::Serial) } else { Ok(Self(value)) }
    }

    /// Gives the number.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text that sshd writes into its log for every login.
///
/// SECURITY: OpenSSH writes it unescaped (`sshd -E`); a newline in it forges a whole log line. Hence the alphabet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Takes a text as a key ID.
    ///
    /// # Errors
    /// [`SpecError::KeyId`] for anything but 1 to 128 of `[A-Za-z0-9._:-]`.
    pub fn new(text: impl Into<String>) -> Result<Self, SpecError> {
        let text = text.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(allowed) {
            return Err(SpecError::KeyId);
        }
        Ok(Self(text))
    }

    /// Gives the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One name that a certificate speaks for: an account or `target/login` for users, a host name for hosts.
///
/// SECURITY: separators, wildcards and shell characters have each been a hole somewhere (CVE-2026-35414,
/// GHSA-59w7-v8rr-pr4p); none can stand here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(String);

impl Principal {
    /// Takes a text as a principal.
    ///
    /// # Errors
    /// [`SpecError::Principal`] outside the grammar.
    pub fn new(text: impl Into<String>) -> Result<Self, SpecError> {
        let text = text.into();
        let allowed =
            |b: u8| (0x21..=0x7e).contains(&b) && !matches!(b, b',' | b'*' | b'?' | b'"' | b'\'' | b'\\' | b'`' | b'$');
        let fits = !text.is_empty() && text.len() <= MAX_NAME_BYTES;
        if !fits || text.starts_with(['-', '@']) || !text.bytes().all(allowed) {
            return Err(SpecError::Principal);
        }
        Ok(Self(text))
    }

    /// Gives the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One to 256 different principals, in the order given.
///
/// INVARIANT: never empty. An empty list means "any principal" to OpenSSH before 10.3.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principals(Vec<Principal>);

impl Principals {
    /// Takes a list of principals.
    ///
    /// # Errors
    /// When it is empty, longer than 256, or names one twice.
    pub fn new(list: Vec<Principal>) -> Result<Self, SpecError> {
        if list.is_empty() {
            return Err(SpecError::NoPrincipals);
        }
        if list.len() > MAX_PRINCIPALS {
            return Err(SpecError::TooManyPrincipals);
        }
        let mut seen: Vec<&Principal> = list.iter().collect();
        seen.sort_unstable();
        if seen.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(SpecError::DuplicatePrincipal);
        }
        Ok(Self(list))
    }

    /// Walks the principals in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Principal> {
        self.0.iter()
    }

    /// Gives the principals in order.
    pub fn as_slice(&self) -> &[Principal] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Principals {
    type Item = &'a Principal;
    type IntoIter = std::slice::Iter<'a, Principal>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// The half-open window `valid_after ≤ t < valid_before` in whole seconds since 1970 (PROTOCOL.certkeys).
///
/// "For ever" (2^64-1) is not representable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertWindow {
    valid_after: u64,
    valid_before: u64,
}

impl CertWindow {
    /// Takes both ends.
    ///
    /// # Errors
    /// [`SpecError::Window`] when it is empty, or ends at or after 2^63.
    pub fn new(valid_after: u64, valid_before: u64) -> Result<Self, SpecError> {
        if valid_after >= valid_before || valid_before > i64::MAX as u64 {
            return Err(SpecError::Window);
        }
        Ok(Self { valid_after, valid_before })
    }

    /// Gives the first second of validity.
    pub fn valid_after(self) -> u64 {
        self.valid_after
    }

    /// Gives the first second after validity.
    pub fn valid_before(self) -> u64 {
        self.valid_before
    }

    /// Gives the length in seconds.
    pub fn length_s(self) -> u64 {
        self.valid_before - self.valid_after
    }
}

/// An address range for `source-address`, v4 or v6, with all host bits zero.
///
/// sshd refuses the login of a certificate whose range has host bits set, so such a range cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Takes a network and its prefix length in bits.
    ///
    /// # Errors
    /// [`SpecError::Cidr`] when the prefix is too long or a host bit is set.
    pub fn new(network: IpAddr, prefix: u8) -> Result<Self, SpecError> {
        let width = if network.is_ipv4() { 32 } else { 128 };
        if prefix > width || mask(network, prefix) != network {
            return Err(SpecError::Cidr);
        }
        Ok(Self { network, prefix })
    }

    /// Tells whether an address lies in the range; a v4 address never lies in a v6 range, mapped or not.
    pub fn contains(self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4() && mask(address, self.prefix) == self.network
    }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32u32.saturating_sub(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & keep))
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128u32.saturating_sub(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & keep))
        }
    }
}

impl FromStr for Cidr {
    type Err = SpecError;

    /// Reads `network/prefix`, or a bare address as a range of one.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (network, prefix) = match text.split_once('/') {
            Some((network, prefix)) => (network, Some(prefix)),
            None => (text, None),
        };
        let network: IpAddr = network.parse().map_err(|_| SpecError::Cidr)?;
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| SpecError::Cidr)?
            }
            Some(_) => return Err(SpecError::Cidr),
            None if network.is_ipv4() => 32,
            None => 128,
        };
        Self::new(network, prefix)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// What a user certificate permits, or carries for our own readers. sshd ignores extensions that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Extension {
    /// `permit-pty`.
    PermitPty,
    /// `permit-port-forwarding`.
    PermitPortForwarding,
    /// `permit-agent-forwarding`.
    PermitAgentForwarding,
    /// `permit-X11-forwarding`.
    PermitX11Forwarding,
    /// One of our own, such as `grant@jit-broker`; [`crate::limits::Limits`] checks both texts.
    Named {
        /// `name@domain`, so that it cannot be one that sshd acts upon.
        name: String,
        /// Printable ASCII.
        value: String,
    },
}

impl Extension {
    /// Gives the name as it stands in the certificate.
    pub fn name(&self) -> &str {
        match self {
            Self::PermitPty => "permit-pty",
            Self::PermitPortForwarding => "permit-port-forwarding",
            Self::PermitAgentForwarding => "permit-agent-forwarding",
            Self::PermitX11Forwarding => "permit-X11-forwarding",
            Self::Named { name, .. } => name,
        }
    }

    fn value(&self) -> &str {
        match self {
            Self::Named { value, .. } => value,
            _ => "",
        }
    }
}

/// What a user certificate restricts. sshd refuses a certificate with a critical option that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CriticalOption {
    /// `source-address`: the login must come from one of these ranges.
    SourceAddress(Vec<Cidr>),
    /// `force-command`: runs instead of what the client asked for.
    ForceCommand(String),
    /// `verify-required`: the hardware key must have checked PIN or finger; hardware keys only.
    VerifyRequired,
}

impl CriticalOption {
    /// Gives the name as it stands in the certificate.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SourceAddress(_) => "source-address",
            Self::ForceCommand(_) => "force-command",
            Self::VerifyRequired => "verify-required",
        }
    }

    fn value(&self) -> String {
        match self {
            Self::SourceAddress(ranges) => ranges.iter().map(Cidr::to_string).collect::<Vec<_>>().join(","),
            Self::ForceCommand(command) => command.clone(),
            Self::VerifyRequired => String::new(),
        }
    }
}

/// Everything a user certificate says, apart from who signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    /// Unique per CA for ever.
    pub serial: Serial,
    /// The key that may log in.
    pub key: PublicKey,
    /// What the hosts log.
    pub key_id: KeyId,
    /// What the certificate speaks for.
    pub principals: Principals,
    /// When it is good.
    pub window: CertWindow,
    /// What it restricts.
    pub critical: Vec<CriticalOption>,
    /// What it permits.
    pub extensions: Vec<Extension>,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

impl UserSpec {
    /// Gives the critical options by name, sorted as the format asks.
    pub(crate) fn critical_map(&self) -> BTreeMap<String, String> {
        self.critical.iter().map(|option| (option.name().to_owned(), option.value())).collect()
    }

    /// Gives the extensions by name, sorted as the format asks.
    pub(crate) fn extension_map(&self) -> BTreeMap<String, String> {
        self.extensions.iter().map(|ext| (ext.name().to_owned(), ext.value().to_owned())).collect()
    }
}

/// Everything a host certificate says, apart from who signs it. Hosts have neither options nor extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// Unique per CA for ever.
    pub serial: Serial,
    /// The host's key.
    pub key: PublicKey,
    /// What clients may show.
    pub key_id: KeyId,
    /// The host's names and addresses.
    pub principals: Principals,
    /// When it is good.
    pub window: CertWindow,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn serials() {
        assert_eq!(Serial::new(0), Err(SpecError::Serial));
        assert_eq!(Serial::new(1 << 63), Err(SpecError::Serial));
        assert_eq!(Serial::new(u64::MAX), Err(SpecError::Serial));
        assert_eq!(Serial::new(i64::MAX as u64), Ok(Serial::MAX));
    }

    #[test]
    fn key_ids_hold_ids_only() {
        let longest = "x".repeat(128);
        for good in ["jit:gr_01:alice", "a", "A.b_c:d-e", longest.as_str()] {
            assert!(KeyId::new(good).is_ok(), "{good}");
        }
        let too_long = "x".repeat(129);
        let four_kib = "x".repeat(4096);
        let forged = "x\nAccepted publickey for root from 9.9.9.9 port 22 ssh2";
        for bad in ["", "a b", "a\r", "a\u{1b}[2J", "a\"", "ü", "a/b", "a\0", forged, &too_long, &four_kib] {
            assert_eq!(KeyId::new(bad), Err(SpecError::KeyId), "{bad:?}");
        }
    }

    #[test]
    fn principals_hold_no_separator_wildcard_or_control() {
        for good in ["root", "db1/deploy", "Root", "a@b", "~", "!", "2001:db8::1", "[::1]"] {
            assert!(Principal::new(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            "alice,root",
            "root ",
            " root",
            "ro\not",
            "ro\0ot",
            "ro\tot",
            "ro\rot",
            "*",
            "ro?t",
            "-o",
            "@all",
            "a\"b",
            "a'b",
            "a\\b",
            "a`b",
            "a$b",
            "é",
            "\u{7f}",
            "\u{1b}",
        ];
        for bad in bad {
            assert_eq!(Principal::new(bad), Err(SpecError::Principal), "{bad:?}");
        }
        assert!(Principal::new("p".repeat(128)).is_ok());
        assert_eq!(Principal::new("p".repeat(129)), Err(SpecError::Principal));
    }

    #[test]
    fn principal_lists() {
        let many = |n: usize| (0..n).map(|i| Principal::new(format!("p{i}")).unwrap()).collect::<Vec<_>>();
        assert_eq!(Principals::new(vec![]), Err(SpecError::NoPrincipals));
        assert!(Principals::new(many(256)).is_ok());
        assert_eq!(Principals::new(many(257)), Err(SpecError::TooManyPrincipals));
        let mut twice = many(3);
        twice.push(Principal::new("p1").unwrap());
        assert_eq!(Principals::new(twice), Err(SpecError::DuplicatePrincipal));
        let order = Principals::new(vec![Principal::new("z").unwrap(), Principal::new("a").unwrap()]).unwrap();
        assert_eq!(order.iter().map(Principal::as_str).collect::<Vec<_>>(), ["z", "a"]);
    }

    #[test]
    fn windows() {
        assert_eq!(CertWindow::new(5, 5), Err(SpecError::Window));
        assert_eq!(CertWindow::new(6, 5), Err(SpecError::Window));
        assert_eq!(CertWindow::new(0, u64::MAX), Err(SpecError::Window));
        assert_eq!(CertWindow::new(0, 1 << 63), Err(SpecError::Window));
        assert_eq!(CertWindow::new(0, i64::MAX as u64).unwrap().length_s(), i64::MAX as u64);
    }

    #[test]
    fn address_ranges() {
        for good in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(good.parse::<Cidr>().unwrap().to_string(), good);
        }
        assert_eq!("192.0.2.7".parse::<Cidr>().unwrap().to_string(), "192.0.2.7/32");
        assert_eq!("::1".parse::<Cidr>().unwrap().to_string(), "::1/128");
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::1/64",
            "10.0.0.0/",
            "/8",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/8,::/0",
            "::/129",
            "fe80::1%eth0",
            "10.0.0.0/8 ",
            "host/8",
            "10.0.0.0/-1",
        ] {
            assert_eq!(bad.parse::<Cidr>(), Err(SpecError::Cidr), "{bad:?}");
        }
        let ten: Cidr = "10.0.0.0/8".parse().unwrap();
        assert!(ten.contains("10.255.0.1".parse().unwrap()));
        assert!(!ten.contains("11.0.0.1".parse().unwrap()));
        assert!(!ten.contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!("::/0".parse::<Cidr>().unwrap().contains("2001:db8::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn what_the_grammar_lets_in_is_printable(text in ".{0,40}") {
            if let Ok(principal) = Principal::new(text.clone()) {
                prop_assert!(principal.as_str().bytes().all(|b| b.is_ascii_graphic() && b != b','));
                prop_assert_eq!(principal.as_str(), text.as_str());
            }
            if let Ok(id) = KeyId::new(text.clone()) {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_graphic()));
            }
            let _ = text.parse::<Cidr>();
        }
    }
}
