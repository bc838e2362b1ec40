//! Waiting for people: who is asked, what came of it, and what policy wants to be told first.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::client::Client;
use super::failure::Failure;
use super::{output, prompt};
use crate::domain::names::{RoleName, TargetName};
use crate::domain::refusal::Code;
use crate::domain::text::shown;
use crate::wire::{GrantDoc, RequestDoc, WhyDoc};

/// So many names are listed; beyond, the groups say it shorter.
const NAMES: usize = 4;
/// How often a reason that is too short is asked for.
const TRIES: usize = 3;

/// The grant that a request led to.
///
/// # Errors
/// What came instead of it.
pub async fn outcome(client: &mut Client, request: &RequestDoc) -> Result<GrantDoc, Failure> {
    if let Some(id) = request.grant_id {
        return client.get(&format!("/v1/grants/{id}")).await;
    }
    if let Some(refusal) = &request.refusal {
        return Err(refusal.clone().into());
    }
    Err(match request.state.as_str() {
        "pending" => {
            let mut failure = Failure::new(
                Code::PENDING,
                format!("{} ({}) waits for {}.", request.id, request.code, waits_for(request)),
            );
            failure.0.hint = Some(format!("jit-broker wait {}", request.id));
            failure
        }
        "denied" => {
            let by = request.denied_by.as_ref().map(ToString::to_string).unwrap_or_default();
            let why = request.denial.clone().unwrap_or_else(|| "no reason is kept".to_owned());
            Failure::new(Code::DENIED, format!("{by} denied it: {why}"))
        }
        word => {
            let mut failure = Failure::new(Code::FINAL, format!("Request {} is {word}.", request.id));
            failure.0.hint = Some(format!("Ask again: jit-broker login {} --role {}", request.target, request.role));
            failure
        }
    })
}

/// Who is asked now, in words: names, where they are few.
pub fn waits_for(request: &RequestDoc) -> String {
    let Some(step) = request.steps.iter().find(|s| s.open) else { return "nobody".to_owned() };
    let left = step.need.saturating_sub(u32::try_from(step.approved_by.len()).unwrap_or(0));
    let names: Vec<String> =
        step.eligible.iter().filter(|p| !step.approved_by.contains(p)).map(ToString::to_string).collect();
    let whom = match names.as_slice() {
        [one] if left == 1 => one.clone(),
        few if (1..=NAMES).contains(&few.len()) => format!("{left} of {}", few.join(", ")),
        _ => format!("{left} of {}", step.from.join(", ")),
    };
    format!("{whom} (step {})", step.name)
}

/// Waits until a request is answered, and says what it waits for.
///
/// # Errors
/// When the broker cannot be reached. A request that is still pending at the end is an answer too.
pub async fn wait_for(client: &mut Client, mut request: RequestDoc, patience: Duration) -> Result<RequestDoc, Failure> {
    if request.state != "pending" {
        return Ok(request);
    }
    eprintln!("{}  {}  waits for {}", request.id, request.code, waits_for(&request));
    let began = Instant::now();
    let drawn = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let mut told = began;
    while request.state == "pending" && began.elapsed() < patience {
        let left = patience.saturating_sub(began.elapsed()).as_secs().clamp(1, 20);
        let path = format!("/v1/requests/{}?wait_s={left}", request.id);
        let line = format!("{}  waits for {}", shown(&request.code), shown(&waits_for(&request)));
        let asked = client.get(&path);
        tokio::pin!(asked);
        let answer = loop {
            tokio::select! {
                answer = &mut asked => break answer,
                () = tokio::time::sleep(Duration::from_secs(1)), if drawn => {
                    eprint!("\r\x1b[K{line}  {}", output::span(i64::try_from(began.elapsed().as_secs()).unwrap_or(0)));
                    let _ = std::io::stderr().flush();
                }
            }
        };
        if drawn {
            eprint!("\r\x1b[K");
        }
        request = answer?;
        if !drawn && request.state == "pending" && told.elapsed() >= Duration::from_secs(59) {
            told = Instant::now();
            eprintln!("{}  still waits for {} ({}s)", request.code, waits_for(&request), began.elapsed().as_secs());
        }
    }
    Ok(request)
}

/// Asks the person at the terminal for what policy wants to be told and was not: a reason, long enough, and a ticket.
///
/// # Errors
/// [`Code::USAGE`], naming the flag, when nobody can be asked.
pub async fn complete(
    client: &mut Client,
    target: &TargetName,
    role: &RoleName,
    (mut reason, mut ticket): (Option<String>, Option<String>),
) -> Result<(Option<String>, Option<String>), Failure> {
    let why: WhyDoc = client.get(&format!("/v1/why?target={target}&role={role}")).await?;
    let least = why.min_reason_chars.unwrap_or(0);
    if reason.is_none() && (least > 0 || why.verdict != "automatic") {
        let form = if least > 0 { format!(" (at least {least} characters)") } else { String::new() };
        let question = format!("jit-broker: reason for {role} on {target}{form}: ");
        for _ in 0..TRIES {
            let text = prompt::on_terminal(&question, "--reason TEXT")?;
            let enough = u32::try_from(text.trim().chars().count()).is_ok_and(|n| n >= least);
            reason = Some(text).filter(|text| !text.trim().is_empty());
            if enough {
                break;
            }
        }
    }
    if let (None, Some(form)) = (&ticket, &why.ticket_pattern) {
        let text = prompt::on_terminal(&format!("jit-broker: ticket ({}): ", shown(form)), "--ticket ID")?;
        ticket = Some(text).filter(|text| !text.trim().is_empty());
    }
    Ok((reason, ticket))
}
