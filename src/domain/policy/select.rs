//! Which targets, roles and tickets a rule means.

use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};

use crate::domain::names::RoleName;
use crate::domain::target::{Target, TargetKind};

/// A target's name with `*` for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// Wraps a pattern that was checked to have only the characters of names, `*` and `?`.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for a pattern that means one name.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// True when the whole text fits; takes time in proportion to pattern times text, whatever the pattern.
    pub fn fits(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.as_bytes(), text.as_bytes());
        // Where to go on after the last `*`, should what follows it not fit here.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), rest.split_first()) {
                (Some((b'*', more)), _) => {
                    retry = Some((more, rest));
                    pattern = more;
                }
                (Some((p, more)), Some((t, tail))) if *p == b'?' || p == t => (pattern, rest) = (more, tail),
                (None, None) => return true,
                _ => match retry {
                    Some((after, from)) if !from.is_empty() => {
                        let next = from.split_first().map_or(from, |(_, tail)| tail);
                        retry = Some((after, next));
                        (pattern, rest) = (after, next);
                    }
                    _ => return false,
                },
            }
        }
    }
}

/// Which targets: all that is said must fit; never nothing said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The name fits.
    pub name: Option<Glob>,
    /// The kind is this.
    pub kind: Option<TargetKind>,
    /// The target has all these labels.
    pub labels: BTreeMap<String, String>,
}

impl Selector {
    /// True when the target is meant.
    pub fn selects(&self, target: &Target) -> bool {
        // SECURITY: `*` over all hosts must not hand out the right to change the rules; the broker is meant only by saying so.
        if target.kind == TargetKind::Broker {
            return self.selects_broker();
        }
        self.kind.is_none_or(|kind| kind == target.kind)
            && self.name.as_ref().is_none_or(|name| name.fits(target.name.as_str()))
            && self.labels.iter().all(|(key, value)| target.labels.get(key) == Some(value))
    }

    /// True when `broker/policy` is meant: by its full name or by `kind = "broker"`.
    pub fn selects_broker(&self) -> bool {
        let named = self.name.as_ref().map(|name| name.as_str() == crate::domain::bundle::BROKER);
        let kind = self.kind.map(|kind| kind == TargetKind::Broker);
        self.labels.is_empty() && matches!((named, kind), (Some(true), None | Some(true)) | (None, Some(true)))
    }
}

/// Which roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roles {
    /// `*`.
    Any,
    /// These; never none.
    Named(BTreeSet<RoleName>),
}

impl Roles {
    /// True when the role is meant.
    pub fn holds(&self, role: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(names) => names.contains(role),
        }
    }
}

/// What a ticket looks like: a regular expression that must fit all of it.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: Box<str>,
    whole: Regex,
}

/// A regular expression that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Pattern {
    /// The most bytes that a pattern may have.
    const MAX_BYTES: usize = 256;
    /// The most memory that a compiled pattern may take, in bytes.
    const MAX_COMPILED_BYTES: usize = 256 << 10;

    /// Compiles a pattern; matching it takes time in proportion to the text.
    ///
    /// # Errors
    /// A pattern that does not parse, is too long, or compiles to too much.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        if source.is_empty() || source.len() > Self::MAX_BYTES {
            return Err(PatternError(format!("a pattern has 1 to {} bytes", Self::MAX_BYTES)));
        }
        let build = |pattern: &str| {
            let limit = Self::MAX_COMPILED_BYTES;
            RegexBuilder::new(pattern).size_limit(limit).dfa_size_limit(limit).nest_limit(32).build().map_err(|error| {
                match error {
                    regex::Error::CompiledTooBig(_) => {
                        PatternError("the pattern is too large once compiled".to_owned())
                    }
                    other => {
                        let text = other.to_string();
                        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                        PatternError(format!("the pattern does not parse: {last}"))
                    }
                }
            })
        };
        // Alone first: `a)(?:b` would parse once it is wrapped.
        build(source)?;
        Ok(Self { source: source.into(), whole: build(&format!(r"\A(?:{source})\z"))? })
    }

    /// The pattern as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True when all of the text fits.
    pub fn fits(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn globs_fit_whole_names() {
        for (pattern, fits, not) in [
            ("db-*", &["db-", "db-prod", "db-a-b"][..], &["db", "xdb-a", ""][..]),
            ("*", &["", "a", "a.b"], &[]),
            ("web-0?", &["web-07"], &["web-0", "web-077"]),
            ("*-prod-*", &["a-prod-b", "-prod-", "a-prod-prod-b"], &["a-prod", "prod-"]),
            ("a", &["a"], &["aa", "b", ""]),
            ("a*b*c", &["abc", "aXbYc", "abcbc"], &["ab", "acb"]),
        ] {
            let glob = Glob::new(pattern);
            fits.iter().for_each(|name| assert!(glob.fits(name), "{pattern} {name}"));
            not.iter().for_each(|name| assert!(!glob.fits(name), "{pattern} {name}"));
        }
        let slow = Glob::new(&"*a".repeat(30));
        assert!(!slow.fits(&"a".repeat(29)) && slow.fits(&"a".repeat(60)));
    }

    #[test]
    fn patterns_fit_the_whole_ticket_and_stay_small() {
        let pattern = Pattern::new("[A-Z]+-[0-9]+").unwrap();
        assert!(
            pattern.fits("OPS-1")
                && !pattern.fits("xOPS-1")
                && !pattern.fits("OPS-1 or so")
                && !pattern.fits("OPS-1\n")
        );
        assert!(Pattern::new("^[A-Z]+-[0-9]+$").unwrap().fits("OPS-1"));
        assert!(Pattern::new("a|ab").unwrap().fits("ab"));
        for (bad, says) in [
            ("", "1 to 256"),
            ("(", "unclosed group"),
            ("a)(?:b", "unopened group"),
            ("(?=a)", "look-around"),
            (r"\w{500}", "too large"),
            (r"(a)\1", "backreferences"),
        ] {
            let error = Pattern::new(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
