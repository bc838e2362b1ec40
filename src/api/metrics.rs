//! `/metrics`: numbers for Prometheus, as text (exposition format 0.0.4), on a listener of its own without TLS and without sign-in.
//!
//! True here: it listens on loopback only, which the settings see to. Never here: a label that names a person, a target, a grant or a
//! session; every label is a word of this program.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::broker::Broker;
use crate::broker::counts::{BOUNDS_US, Took};
use crate::domain::grant::GrantState;
use crate::record::{Store, written_bytes};

/// The words of requests and grants that are always there, so that a graph begins at 0.
const REQUESTS: [&str; 8] =
    ["pending", "approved", "refused", "covered", "denied", "withdrawn", "expired", "invalidated"];
const GRANTS: [&str; 4] = ["ready", "active", "ending", "residue"];

/// What is measured.
#[derive(Clone)]
pub struct Metrics {
    /// The verbs.
    pub broker: Broker,
    /// The ledger's file.
    pub ledger: PathBuf,
    /// What a gateway records.
    pub recordings: Option<Arc<Store>>,
}

/// The routes of the local listener.
pub fn router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(numbers))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "GET /metrics, /livez or /readyz\n"))
        .with_state(metrics)
}

async fn ready(State(metrics): State<Metrics>) -> Response {
    match metrics.broker.ready().await {
        Ok(()) => "ok\n".into_response(),
        Err(refusal) => super::Problem(refusal).into_response(),
    }
}

async fn numbers(State(metrics): State<Metrics>) -> Response {
    let mut answer = metrics.text().await.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert("content-type", kind);
    answer
}

/// The text as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP jit_broker_{name} {help}\n# TYPE jit_broker_{name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.0, "jit_broker_{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        let _ = writeln!(self.0, "jit_broker_{name} {value}");
    }

    fn each(&mut self, name: &str, label: &str, values: &BTreeMap<String, u64>) {
        for (word, value) in values {
            let _ = writeln!(self.0, "jit_broker_{name}{{{label}=\"{word}\"}} {value}");
        }
    }

    fn histogram(&mut self, name: &str, help: &str, took: &Took) {
        self.head(name, "histogram", help);
        let (times, sum_us) = took.total();
        for (bound, count) in BOUNDS_US.iter().zip(took.at_most()) {
            let _ = writeln!(self.0, "jit_broker_{name}_bucket{{le=\"{}\"}} {}", seconds(*bound), count.min(times));
        }
        let _ = writeln!(self.0, "jit_broker_{name}_bucket{{le=\"+Inf\"}} {times}");
        let _ = writeln!(self.0, "jit_broker_{name}_sum {}\njit_broker_{name}_count {times}", seconds(sum_us));
    }
}

/// Microseconds as seconds, exactly.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn words<'a>(always: &[&str], found: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = always.iter().map(|word| ((*word).to_owned(), 0)).collect();
    found.for_each(|word| *all.entry(word.to_owned()).or_default() += 1);
    all
}

impl Metrics {
    /// Everything, now.
    pub async fn text(&self) -> String {
        let mut page = Page::default();
        page.head("build_info", "gauge", "The version, in its label.");
        let _ = writeln!(page.0, "jit_broker_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        page.gauge("ready", "1 while access would be granted.", u8::from(self.broker.ready().await.is_ok()));
        page.gauge("signer_signs", "1 while the signer signs.", u8::from(self.broker.health().is_none()));
        page.counter("panics_total", "Defects of this process that were caught.", crate::bug::panics());
        self.state(&mut page).await;
        self.log(&mut page);
        self.machine(&mut page);
        page.0
    }

    /// What the state holds.
    async fn state(&self, page: &mut Page) {
        let memory = self.broker.memory().await;
        let state = &memory.state;
        let requests = words(&REQUESTS, state.requests.values().map(|request| request.state.word()));
        let grants = state.open_grants.iter().filter_map(|id| state.grants.get(id));
        let residue = grants.clone().filter(|grant| matches!(grant.state, GrantState::Residue { .. })).count();
        let grants = words(&GRANTS, grants.map(|grant| grant.state.word()));
        let (sessions, revoked) = (state.sessions.len(), state.krl.serials.len());
        let (entries, version) = (state.size, state.krl.version);
        drop(memory);
        page.head(
            "requests",
            "gauge",
            "Requests that wait, that have an open grant, or that were over within the hour.",
        );
        page.each("requests", "state", &requests);
        page.head("grants", "gauge", "Grants that are not over.");
        page.each("grants", "state", &grants);
        page.gauge("residue", "Grants of which something is left on a target.", residue);
        page.gauge("sessions", "Open sessions through a gateway.", sessions);
        page.gauge("revocation_list_version", "The published revocation list.", version);
        page.gauge("revocation_list_serials", "The serials on it.", revoked);
        page.gauge("ledger_entries", "Entries of the log.", entries);
    }

    /// What was written, and how long it took.
    fn log(&self, page: &mut Page) {
        let counts = self.broker.counts();
        let signed = self.broker.note().map_or(0, |(size, _)| size);
        page.gauge("checkpoint_entries", "Entries that the newest checkpoint is signed over.", signed);
        page.head("entries_total", "counter", "Entries that this process wrote.");
        page.each("entries_total", "kind", &counts.entries());
        page.histogram("append_seconds", "A batch of entries: written, flushed, read back.", &counts.append);
        page.histogram("signer_seconds", "An order to the signer.", self.broker.signer_took());
        let size = |end: &str| {
            let mut path = self.ledger.clone().into_os_string();
            path.push(end);
            std::fs::metadata(path).map_or(0, |found| found.len())
        };
        page.gauge("ledger_bytes", "The ledger's file, with what is not merged into it yet.", size("") + size("-wal"));
        page.gauge(
            "reserve",
            "1 while the room for ends stands on the disk.",
            u8::from(self.broker.reserve().stands()),
        );
        page.counter("recorded_bytes_total", "Bytes of recordings that this process wrote.", written_bytes());
        if let Some(permille) = self.recordings.as_ref().and_then(|store| store.free_permille().ok()) {
            page.gauge("recordings_free_permille", "Room on the disk of the recordings, in thousandths.", permille);
        }
    }

    /// The process and its clocks.
    fn machine(&self, page: &mut Page) {
        let drift_s = self.broker.keeper().now().drift_s;
        page.gauge("clock_drift_seconds", "How far the wall clock is ahead of the boot-time clock.", drift_s);
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            page.gauge("open_descriptors", "Open files and sockets.", open.count());
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        if let Some(kib) = resident {
            page.gauge("resident_bytes", "Memory of the process.", u64::saturating_mul(kib, 1024));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        let all = [(0, "0"), (500, "0.0005"), (1_000_000, "1"), (10_000_000, "10"), (2_500_001, "2.500001")];
        for (us, text) in all {
            assert_eq!(seconds(us), text);
        }
    }
}
