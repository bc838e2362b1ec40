//! What a verification found, in order, up to a bound.

use super::verify::Problem;

/// More findings than this are counted, not listed.
const MAX_FINDINGS: usize = 1000;

#[derive(Default)]
pub(super) struct List {
    list: Vec<Problem>,
    more: u64,
}

impl List {
    pub(super) fn push(&mut self, problem: Problem) {
        if self.list.len() < MAX_FINDINGS { self.list.push(problem) } else { self.more += 1 }
    }

    pub(super) fn close(mut self) -> Vec<Problem> {
        if self.more > 0 {
            self.list.push(Problem { seq: None, kind: "more".into(), detail: format!("{} more", self.more) });
        }
        self.list
    }
}

#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: List,
    pub(super) warnings: List,
}

impl Findings {
    pub(super) fn problem(&mut self, seq: Option<u64>, kind: &str, detail: impl Into<String>) {
        self.problems.push(Problem { seq, kind: kind.into(), detail: detail.into() });
    }

    pub(super) fn warning(&mut self, seq: Option<u64>, kind: &str, detail: impl Into<String>) {
        self.warnings.push(Problem { seq, kind: kind.into(), detail: detail.into() });
    }
}

pub(super) fn both_notes(first: &str, first_text: &str, second: &str, second_text: &str) -> String {
    format!("two signed trees that cannot both be true; {first}:\n{first_text}\n{second}:\n{second_text}")
}
