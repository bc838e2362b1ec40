//! Reading TOML so that every problem is told with its line: a table notes what it was asked for, and names what is left over.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};

use crate::domain::span::parse_span;
use crate::domain::text::shown;

/// The most problems that are listed; of the rest only the number is told.
const MAX_PROBLEMS: usize = 1000;

/// Something in the files that must be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or `bundle` for all together.
    pub file: String,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, without a full stop.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// The problems found so far.
#[derive(Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(super) fn add(&mut self, at: Place<'_>, message: impl Into<String>) {
        self.push(at.source.name, Some(at.line()), message.into());
    }

    /// A problem of a file as a whole.
    pub(super) fn add_to(&mut self, file: &str, message: impl Into<String>) {
        self.push(file, None, message.into());
    }

    /// Takes what a check gave, or notes why it failed.
    pub(super) fn take<T, E: std::fmt::Display>(&mut self, at: Place<'_>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(at, error.to_string())).ok()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len() + self.more
    }

    fn push(&mut self, file: &str, line: Option<usize>, message: String) {
        if self.list.len() >= MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        let file = shown(file);
        self.list.push(Problem { file, line, message });
    }

    pub(super) fn into_list(mut self) -> Vec<Problem> {
        self.list.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        self.list.dedup();
        if self.more > 0 {
            let message = format!("and {} more problems", self.more);
            self.list.push(Problem { file: "bundle".to_owned(), line: None, message });
        }
        self.list
    }
}

/// One file.
pub(super) struct Source<'t> {
    pub(super) name: &'t str,
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(name: &'t str, text: &'t str) -> Self {
        let lines = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1))
            .collect();
        Self { name, text, lines }
    }
}

/// A place in a file.
#[derive(Clone, Copy)]
pub(super) struct Place<'t> {
    pub(super) source: &'t Source<'t>,
    offset: usize,
}

impl Place<'_> {
    /// The line, from 1.
    pub(super) fn line(self) -> usize {
        self.source.lines.partition_point(|start| *start <= self.offset)
    }
}

/// A value and where it stands.
#[derive(Clone, Copy)]
pub(super) struct At<'t, T> {
    pub(super) at: Place<'t>,
    pub(super) value: T,
}

/// Which of the three files a text is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    People,
    Targets,
    Policy,
}

/// The parsed files of a bundle.
pub(super) struct Roots<'t> {
    files: Vec<(Part, &'t Source<'t>, DeTable<'t>)>,
    /// Certificates that targets name, as they were inlined.
    certificates: BTreeMap<&'t str, &'t str>,
    /// Whether every file parsed; if not, names that are missing may stand in what was not read.
    pub(super) whole: Whole,
}

/// Whether all files could be parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Yes,
    No,
}

impl Roots<'_> {
    /// The text of a certificate file beside the bundle.
    pub(super) fn certificate(&self, name: &str) -> Option<&str> {
        self.certificates.get(name).copied()
    }

    /// The names of all certificate files.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &str> {
        self.certificates.keys().copied()
    }

    /// The top tables of all files of one part, in the order of their names.
    pub(super) fn of(&self, part: Part) -> impl Iterator<Item = Table<'_>> {
        self.files.iter().filter(move |(its, ..)| *its == part).map(|(_, source, entries)| Table {
            at: Place { source, offset: 0 },
            what: "the file".to_owned(),
            entries,
            known: Vec::new(),
        })
    }
}

/// Parses every file as TOML, and refuses files that are no part of a bundle.
pub(super) fn roots<'t>(sources: &'t [Source<'t>], problems: &mut Problems) -> Roots<'t> {
    let mut roots = Roots { files: Vec::new(), certificates: BTreeMap::new(), whole: Whole::Yes };
    for source in sources {
        if is_certificate(source.name) {
            roots.certificates.insert(source.name, source.text);
            continue;
        }
        let Some(part) = part_of(source.name) else {
            problems.add_to(
                source.name,
                "a bundle has people.toml, targets.toml, policy.toml, or folders people, targets, policy of NAME.toml, and NAME.crt",
            );
            continue;
        };
        let (table, errors) = DeTable::parse_recoverable(source.text);
        if errors.is_empty() {
            roots.files.push((part, source, table.into_inner()));
            continue;
        }
        roots.whole = Whole::No;
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            problems.add(Place { source, offset }, format!("not TOML: {}", shown(error.message())));
        }
    }
    roots
}

/// `NAME.crt`: an authority's certificate, PEM, that a target names.
pub(super) fn is_certificate(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let stem = name.strip_suffix(".crt").unwrap_or_default();
    !stem.is_empty() && !stem.starts_with('.') && stem.len() <= 64 && stem.bytes().all(plain)
}

fn part_of(name: &str) -> Option<Part> {
    let stem = name.strip_suffix(".toml")?;
    let (first, rest) = stem.split_once('/').map_or((stem, None), |(first, rest)| (first, Some(rest)));
    let plain =
        |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !rest.is_none_or(plain) {
        return None;
    }
    match first {
        "people" => Some(Part::People),
        "targets" => Some(Part::Targets),
        "policy" => Some(Part::Policy),
        _ => None,
    }
}

/// A table that is being read.
pub(super) struct Table<'t> {
    pub(super) at: Place<'t>,
    what: String,
    entries: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    fn value(&mut self, key: &'static str) -> Option<At<'t, &'t DeValue<'t>>> {
        self.known.push(key);
        let (_, value) = self.entries.iter().find(|(its, _)| its.get_ref() == key)?;
        Some(At { at: self.place(value.span().start), value: value.get_ref() })
    }

    fn place(&self, offset: usize) -> Place<'t> {
        Place { source: self.at.source, offset }
    }

    fn wrong(&self, key: &str, wants: &str, found: At<'_, &DeValue<'_>>, problems: &mut Problems) {
        let article = if found.value.type_str().starts_with(['a', 'i']) { "an" } else { "a" };
        problems.add(found.at, format!("{key} must be {wants}, not {article} {}", found.value.type_str()));
    }

    /// True when the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(its, _)| its.get_ref() == key)
    }

    /// Any value, for keys that take several types.
    pub(super) fn any(&mut self, key: &'static str) -> Option<At<'t, &'t DeValue<'t>>> {
        self.value(key)
    }

    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<At<'t, &'t str>> {
        let found = self.value(key)?;
        match found.value.as_str() {
            Some(value) => Some(At { at: found.at, value }),
            None => {
                self.wrong(key, "a string", found, problems);
                None
            }
        }
    }

    pub(super) fn needed_text(&mut self, key: &'static str, problems: &mut Problems) -> Option<At<'t, &'t str>> {
        if !self.has(key) {
            self.known.push(key);
            problems.add(self.at, format!("{} has no {key}", self.what));
            return None;
        }
        self.text(key, problems)
    }

    /// A whole number of a range.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        problems: &mut Problems,
    ) -> Option<u32> {
        let found = self.value(key)?;
        let number = match found.value {
            DeValue::Integer(integer) => i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok(),
            _ => {
                self.wrong(key, "a whole number", found, problems);
                return None;
            }
        };
        let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            problems.add(found.at, format!("{key} must be from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// One of two things, by `true` or `false`.
    pub(super) fn switch<T>(&mut self, key: &'static str, on: T, off: T, problems: &mut Problems) -> Option<T> {
        let found = self.value(key)?;
        match found.value.as_bool() {
            Some(true) => Some(on),
            Some(false) => Some(off),
            None => {
                self.wrong(key, "true or false", found, problems);
                None
            }
        }
    }

    /// A duration in seconds.
    pub(super) fn span(&mut self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        let text = self.text(key, problems)?;
        let parsed =
            parse_span(text.value).map_err(|refusal| format!("{key}: {}", refusal.message.trim_end_matches('.')));
        problems.take(text.at, parsed)
    }

    /// A list of strings, which may be empty.
    pub(super) fn texts(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<At<'t, &'t str>>> {
        let found = self.value(key)?;
        let Some(items) = found.value.as_array() else {
            self.wrong(key, "a list of strings", found, problems);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items.iter() {
            let item = At { at: self.place(item.span().start), value: item.get_ref() };
            match item.value.as_str() {
                Some(value) => texts.push(At { at: item.at, value }),
                None => self.wrong(&format!("each of {key}"), "a string", item, problems),
            }
        }
        Some(texts)
    }

    /// A list of strings that is not empty: an empty one never means everybody.
    pub(super) fn some_texts(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<At<'t, &'t str>>> {
        let at = self.value(key)?.at;
        let texts = self.texts(key, problems)?;
        if texts.is_empty() {
            problems.add(at, format!("{key} is empty: it would mean nobody and nothing, so leave it out or fill it"));
            return None;
        }
        Some(texts)
    }

    /// As [`Table::some_texts`], and it must be there.
    pub(super) fn needed_texts(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<At<'t, &'t str>>> {
        if !self.has(key) {
            self.known.push(key);
            problems.add(self.at, format!("{} has no {key}", self.what));
            return None;
        }
        self.some_texts(key, problems)
    }

    pub(super) fn table(&mut self, key: &'static str, problems: &mut Problems) -> Option<Table<'t>> {
        let found = self.value(key)?;
        match found.value {
            DeValue::Table(entries) => Some(Table { at: found.at, what: key.to_owned(), entries, known: Vec::new() }),
            _ => {
                self.wrong(key, "a table", found, problems);
                None
            }
        }
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str, problems: &mut Problems) -> Vec<Table<'t>> {
        let Some(found) = self.value(key) else { return Vec::new() };
        let Some(items) = found.value.as_array() else {
            self.wrong(key, &format!("a list: write [[{key}]]"), found, problems);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items.iter() {
            let item = At { at: self.place(item.span().start), value: item.get_ref() };
            match item.value {
                DeValue::Table(entries) => {
                    tables.push(Table { at: item.at, what: format!("[[{key}]]"), entries, known: Vec::new() });
                }
                _ => self.wrong(&format!("each of {key}"), "a table", item, problems),
            }
        }
        tables
    }

    /// Every key with its value, for tables whose keys are names.
    pub(super) fn each(&self) -> impl Iterator<Item = (At<'t, &'t str>, At<'t, &'t DeValue<'t>>)> {
        let source = self.at.source;
        self.entries.iter().map(move |(key, value)| {
            let key = At { at: Place { source, offset: key.span().start }, value: key.get_ref().as_ref() };
            (key, At { at: Place { source, offset: value.span().start }, value: value.get_ref() })
        })
    }

    /// Reads a value that [`Table::each`] gave as a table; `what` names it in messages.
    pub(super) fn of(found: At<'t, &'t DeValue<'t>>, what: String, problems: &mut Problems) -> Option<Table<'t>> {
        match found.value {
            DeValue::Table(entries) => Some(Table { at: found.at, what, entries, known: Vec::new() }),
            _ => {
                problems.add(found.at, format!("{what} must be a table, not a {}", found.value.type_str()));
                None
            }
        }
    }

    /// A key that the specification knows and this version does not.
    pub(super) fn not_yet(&mut self, key: &'static str, problems: &mut Problems) {
        if let Some(found) = self.value(key) {
            problems.add(found.at, format!("{key} is not in this version"));
        }
    }

    /// Names every key that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for (key, _) in self.each() {
            if !self.known.contains(&key.value) {
                let guess = meant(key.value, self.known.iter().copied());
                problems.add(key.at, format!("unknown key {} in {}{guess}", shown(key.value), self.what));
            }
        }
    }
}

/// `; did you mean "…"?`, when one of the words is close.
pub(super) fn meant<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> String {
    let length = word.chars().count();
    let most = (length / 3).max(1);
    let near = |other: &&str| length.abs_diff(other.chars().count()) <= most;
    let best = known.into_iter().filter(near).map(|other| (strsim::osa_distance(word, other), other)).min();
    match best {
        Some((distance, other)) if distance <= most => format!("; did you mean {other}?"),
        _ => String::new(),
    }
}

/// Notes a name, and tells when it was there already.
pub(super) fn once<T: Ord + std::fmt::Display + Clone>(
    seen: &mut BTreeSet<T>,
    name: &T,
    at: Place<'_>,
    what: &str,
    problems: &mut Problems,
) -> bool {
    let fresh = seen.insert(name.clone());
    if !fresh {
        problems.add(at, format!("{what} {name} is there twice"));
    }
    fresh
}
