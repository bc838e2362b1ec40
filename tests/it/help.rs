//! Snapshots of every help page and of every code: the contract that scripts and people rely on.

use jit_broker::domain::codes::ENTRIES;

fn pages(command: &mut clap::Command, path: &str, out: &mut String) {
    let name = format!("{path}{}", command.get_name());
    out.push_str(&format!("===== {name}\n{}\n", command.render_help()));
    let mut names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.sort();
    for sub in names {
        if let Some(found) = command.find_subcommand_mut(&sub) {
            pages(found, &format!("{name} "), out);
        }
    }
}

#[test]
fn every_help_page() {
    let mut out = String::new();
    pages(&mut jit_broker::cli::command().term_width(100), "", &mut out);
    insta::assert_snapshot!(out);
}

#[test]
fn every_code() {
    let lines: Vec<String> =
        ENTRIES.iter().map(|e| format!("{} exit {} http {} {}", e.code, e.exit, e.http, e.title)).collect();
    insta::assert_snapshot!(lines.join("\n"));
}
