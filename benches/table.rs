//! One row a figure: printed, and kept in the file of `JIT_BENCH_ROWS` for the table of `make bench`.

use std::io::Write as _;

/// A figure beside its aim.
pub struct Figure<'a> {
    /// What was measured.
    pub what: &'a str,
    /// What was seen.
    pub seen: String,
    /// What bench.md aims at; empty where it aims at nothing.
    pub aim: &'a str,
    /// Whether it is met; nothing where there is no aim.
    pub met: Option<bool>,
}

/// Prints a row, and keeps it.
pub fn row(row: &Figure<'_>) {
    let met = match row.met {
        Some(true) => "yes",
        Some(false) => "no",
        None => "–",
    };
    let aim = if row.aim.is_empty() { "–" } else { row.aim };
    println!("{}: {} (aim {aim}: {met})", row.what, row.seen);
    let Some(path) = std::env::var_os("JIT_BENCH_ROWS") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| writeln!(file, "| {} | {} | {aim} | {met} |", row.what, row.seen))
        .expect("the row is kept");
}

/// The value below which a share (in percent) of a list lies.
pub fn at(list: &[f64], share: usize) -> f64 {
    let mut list = list.to_vec();
    list.sort_by(f64::total_cmp);
    list.get(list.len() * share / 100).or(list.last()).copied().unwrap_or_default()
}
