//! Answers on stdout: a table for people, tab-separated text or JSON for programs.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Serialize;

use super::failure::Failure;
use crate::domain::span::show_span;
use crate::domain::text::{shown, shown_json};

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table on a terminal, tab-separated otherwise.
    Auto,
    /// A table.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// Only names or ids.
    Name,
}

fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map(|json| shown_json(&json)).map_err(|e| Failure::local("the answer", e))
}

/// Writes a list: whole as JSON, else the rows; the first column is the name.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn list<T: Serialize>(
    format: Format,
    kind: &str,
    items: &[T],
    head: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    lists(format, kind, items, head, |item| vec![row(item)])
}

/// The same, with any number of rows for each thing.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn lists<T: Serialize>(
    format: Format,
    kind: &str,
    items: &[T],
    head: &[&str],
    rows: impl Fn(&T) -> Vec<Vec<String>>,
) -> Result<(), Failure> {
    let first = |item: &T| rows(item).into_iter().next().and_then(|row| row.into_iter().next());
    match format {
        Format::Json => {
            let doc =
                serde_json::json!({ "schema": format!("jit-broker/{kind}-list/v1"), "items": items, "next": null });
            println!("{}", json(&doc)?);
        }
        Format::Jsonl => {
            for item in items {
                println!("{}", json(item)?);
            }
        }
        Format::Name => items.iter().filter_map(first).for_each(|name| println!("{}", shown(&name))),
        Format::Table => table(head, items.iter().flat_map(rows)),
        Format::Auto if std::io::stdout().is_terminal() => table(head, items.iter().flat_map(rows)),
        Format::Auto => {
            for row in items.iter().flat_map(rows) {
                let cells: Vec<String> = row.iter().map(|cell| shown(cell)).collect();
                println!("{}", cells.join("\t"));
            }
        }
    }
    Ok(())
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    self::rows(head, rows).iter().for_each(|line| println!("{line}"));
}

/// The lines of a table; nothing in them moves a cursor.
pub fn rows(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| shown(cell)));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Writes one document: as JSON, its name, or as lines that `text` makes.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn one<T: Serialize>(
    format: Format,
    item: &T,
    name: &str,
    text: impl FnOnce(&T) -> Vec<String>,
) -> Result<(), Failure> {
    match format {
        Format::Json | Format::Jsonl => println!("{}", json(item)?),
        Format::Name => println!("{}", shown(name)),
        Format::Auto | Format::Table => text(item).iter().for_each(|line| println!("{}", shown(line))),
    }
    Ok(())
}

/// Writes an answer that is no object of the product: its fields under `jit-broker/<kind>/v1`, its name, or lines.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn answer(
    format: Format,
    kind: &str,
    mut fields: serde_json::Value,
    name: &str,
    lines: &[String],
) -> Result<(), Failure> {
    if let Some(map) = fields.as_object_mut() {
        map.insert("schema".to_owned(), format!("jit-broker/{kind}/v1").into());
    }
    one(format, &fields, name, |_| lines.to_vec())
}

/// Says that something was done: a sentence on stderr for people, a document for programs.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn done(format: Format, what: &str, sentence: &str) -> Result<(), Failure> {
    eprintln!("{}", shown(sentence));
    match format {
        Format::Json | Format::Jsonl => answer(format, "done", serde_json::json!({ "done": what }), "", &[]),
        Format::Auto | Format::Table | Format::Name => Ok(()),
    }
}

/// A number of things, in words.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// RFC 3339 in UTC, whole seconds.
pub fn instant(at: i64) -> String {
    jiff::Timestamp::from_second(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}

/// A duration in seconds, as people write it.
pub fn span(s: i64) -> String {
    u64::try_from(s).ok().filter(|s| *s > 0).map_or_else(|| "0s".to_owned(), show_span)
}
