//! `review`: one request at a time, with all that an approver needs to decide.

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::answer::{approve_doc, deny_doc};
use super::ask::{gives, powers};
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::wait::waits_for;
use super::{Globals, hint, output, prompt, terms};
use crate::domain::ids::RequestId;
use crate::domain::refusal::Code;
use crate::domain::span::parse_span;
use crate::domain::text::shown;
use crate::wire::{EarlierDoc, List, RequestDoc, StepDoc};

/// How a round goes on after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Answered,
    Next,
    Quit,
}

/// `review`
///
/// # Errors
/// When nobody can be asked, or the broker is away. One refusal, such as an answer that came in between, does not end the round.
pub async fn review() -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let (mut seen, mut answered, mut left) = (BTreeSet::new(), 0, 0);
    'rounds: loop {
        let list: List<RequestDoc> = client.get("/v1/requests?scope=answer").await?;
        let fresh: Vec<RequestId> = list.items.iter().map(|r| r.id).filter(|id| seen.insert(*id)).collect();
        if fresh.is_empty() {
            break;
        }
        for (at, id) in fresh.iter().enumerate() {
            let turn = match one(&mut client, *id, (at + 1, fresh.len())).await {
                Ok(turn) => turn,
                Err(failure) if matches!(failure.0.code, Code::USAGE | Code::CANCELLED | Code::UNREACHABLE) => {
                    return Err(failure);
                }
                Err(failure) => {
                    failure.report(false);
                    Turn::Next
                }
            };
            match turn {
                Turn::Answered => answered += 1,
                Turn::Next => left += 1,
                Turn::Quit => break 'rounds,
            }
        }
    }
    if !seen.is_empty() {
        hint::once(client.home(), "watch", "jit-broker pending --watch goes on showing what waits for you.");
    }
    match (seen.len(), left) {
        (0, _) => eprintln!("Nothing waits for you."),
        (_, 0) => eprintln!("{answered} answered."),
        (_, _) => eprintln!("{answered} answered, {left} left as they were."),
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows one request and asks until there is an answer.
async fn one(client: &mut Client, id: RequestId, place: (usize, usize)) -> Result<Turn, Failure> {
    let doc: RequestDoc = client.get(&format!("/v1/requests/{id}")).await?;
    let earlier: List<EarlierDoc> = client.get(&format!("/v1/requests/{id}/earlier")).await?;
    let now = crate::clock::wall_s();
    card(&doc, &earlier.items, place, now).iter().for_each(|line| println!("{}", shown(line)));
    if doc.target.as_str() == "broker/policy" {
        super::admin::show_proposal(client, &doc).await?;
    }
    let table = Globals { output: output::Format::Table };
    let after = loop {
        let question = "(a)pprove  (s)horten  (d)eny  (w)hy  (n)ext  (q)uit: ";
        let line = prompt::ask(question, &format!("jit-broker approve {id}, or deny {id} --reason TEXT"))?;
        let done = match said(&line) {
            Said::Approve => approve_doc(client, &doc, None, None, None).await,
            Said::Shorten(span) => {
                let longest = output::span(i64::try_from(doc.for_s).unwrap_or(0));
                let span = match span {
                    Some(span) => span,
                    None => prompt::ask(&format!("For how long, at most {longest}? "), "--for D")?,
                };
                match parse_span(span.trim()) {
                    Ok(s) => approve_doc(client, &doc, Some(s), None, None).await,
                    Err(refusal) => Err(refusal.into()),
                }
            }
            Said::Deny(reason) => {
                let reason = match reason {
                    Some(reason) => reason,
                    None => prompt::ask("Reason, which they will read: ", "--reason TEXT")?,
                };
                deny_doc(client, &doc, &reason).await
            }
            Said::Why => {
                let why = super::ask::why(&doc.target, Some(&doc.role), None, Some(&doc.requester), &table).await;
                if let Err(failure) = why {
                    failure.report(false);
                }
                continue;
            }
            Said::Next => return Ok(Turn::Next),
            Said::Quit => return Ok(Turn::Quit),
            Said::Unknown => {
                eprintln!(
                    "a approves as asked; s 10m approves for less; d TEXT denies, and says why; w shows the rules; n leaves it; q ends."
                );
                continue;
            }
        };
        match done {
            Ok(after) => break after,
            // What was typed can be typed again; anything else is about the request itself.
            Err(failure) if correctable(failure.0.code) => drop(failure.report(false)),
            Err(failure) => return Err(failure),
        }
    };
    eprintln!("{}", shown(&outcome(&after)));
    Ok(Turn::Answered)
}

fn correctable(code: Code) -> bool {
    matches!(code, Code::BAD_DURATION | Code::NOT_NARROWER | Code::BAD_TEXT | Code::NEEDS_REASON | Code::NEEDS_PRESENCE)
}

fn outcome(after: &RequestDoc) -> String {
    let span = output::span(i64::try_from(after.for_s).unwrap_or(0));
    match after.state.as_str() {
        "approved" if after.grant_id.is_some() => {
            let (who, role, target) = (&after.requester, &after.role, &after.target);
            format!("{}: approved; {who} has {role} on {target} for {span}", after.code)
        }
        "pending" => format!("{}: still pending; it waits for {}", after.code, waits_for(after)),
        state => format!("{}: {state}", after.code),
    }
}

/// What an approver typed: a letter or the word, and what it needs behind it.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Approve,
    Shorten(Option<String>),
    Deny(Option<String>),
    Why,
    Next,
    Quit,
    Unknown,
}

fn said(line: &str) -> Said {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty());
    match (word, rest) {
        ("a" | "approve", None) => Said::Approve,
        ("s" | "shorten", rest) => Said::Shorten(rest),
        ("d" | "deny", rest) => Said::Deny(rest),
        ("w" | "why", None) => Said::Why,
        ("" | "n" | "next", None) => Said::Next,
        ("q" | "quit", None) => Said::Quit,
        _ => Said::Unknown,
    }
}

/// How long ago an instant was, in words.
pub(super) fn ago(text: &str, now: i64) -> String {
    let Ok(at) = text.parse::<jiff::Timestamp>() else { return text.to_owned() };
    match now - at.as_second() {
        s @ 60.. => format!("{} ago", rough(s)),
        -5..60 => "just now".to_owned(),
        s => format!("in {}", rough(-s)),
    }
}

/// The largest unit and the next: what matters of a time that is long.
fn rough(s: i64) -> String {
    let unit = match s {
        86_400.. => 3600,
        600.. => 60,
        _ => 1,
    };
    output::span(s - s % unit)
}

/// One request with what is known of it.
fn card(doc: &RequestDoc, earlier: &[EarlierDoc], (at, of): (usize, usize), now: i64) -> Vec<String> {
    let mut lines = vec![String::new(), format!("{at} of {of}   {}   {}", doc.code, doc.id)];
    let mut put = |name: &str, text: String| {
        let label = if name.is_empty() { String::new() } else { format!("{name}:") };
        lines.push(format!("  {label:<8} {text}"));
    };
    let span = output::span(i64::try_from(doc.for_s).unwrap_or(0));
    if let Some(what) = terms::power(doc) {
        put("who", format!("{} asks {what}", doc.requester));
    } else if let Some(until) = &doc.until {
        let grant = doc.extends.map(|id| format!("{id}, ")).unwrap_or_default();
        put(
            "who",
            format!("{} asks to go on with {grant}{} on {}, until {until}", doc.requester, doc.role, doc.target),
        );
        put("for", format!("{span} from when it was asked"));
    } else {
        put("who", format!("{} asks for {} on {} for {span}", doc.requester, doc.role, doc.target));
    }
    if terms::power(doc).is_none() {
        put("opens", gives(&doc.terms));
        powers(&doc.terms).into_iter().for_each(|line| put("how", line));
    }
    if doc.attested {
        put("note", format!("asked inside ssh: the gateway saw {}'s key, and nobody signed this", doc.requester));
    }
    put("reason", doc.reason.clone().unwrap_or_else(|| "none was given".to_owned()));
    doc.ticket.iter().for_each(|ticket| put("ticket", ticket.clone()));
    put("asked", format!("{}; it lapses {}", ago(&doc.created_at, now), ago(&doc.answer_by, now)));
    for step in &doc.steps {
        put("step", format!("{}{}", self::step(step), if step.open { "  <- you" } else { "" }));
    }
    if earlier.is_empty() {
        put("earlier", format!("nothing that you may know of by {}", doc.requester));
    }
    for (row, other) in earlier.iter().enumerate() {
        put(if row == 0 { "earlier" } else { "" }, once(other, now));
    }
    lines
}

/// A step in words: who is asked, and who agreed.
pub(super) fn step(step: &StepDoc) -> String {
    let by: Vec<&str> = step.approved_by.iter().map(|p| p.as_str()).collect();
    let agreed = if by.is_empty() { String::new() } else { format!("; {} agreed", by.join(", ")) };
    let open = if step.open { ", open" } else { "" };
    format!("{}: {} of {}{agreed}{open}", step.name, step.need, step.from.join(", "))
}

fn once(other: &EarlierDoc, now: i64) -> String {
    let span = output::span(i64::try_from(other.for_s).unwrap_or(0));
    let by: Vec<&str> = other.approved_by.iter().map(|p| p.as_str()).collect();
    let by = if by.is_empty() { String::new() } else { format!(" by {}", by.join(", ")) };
    let then = other.grant_state.as_ref().map(|word| format!(", {word}")).unwrap_or_default();
    let what = format!("{} on {} for {span}", other.role, other.target);
    format!("{}: {what}: {}{by}{then}", ago(&other.created_at, now), other.state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_a_letter_or_a_word_with_what_it_needs() {
        assert_eq!(said(" a "), Said::Approve);
        assert_eq!(said("approve"), Said::Approve);
        assert_eq!(said("approve all"), Said::Unknown, "an approval takes nothing else along");
        assert_eq!(said("s 10m"), Said::Shorten(Some("10m".to_owned())));
        assert_eq!(said("d not  on a friday"), Said::Deny(Some("not  on a friday".to_owned())));
        assert_eq!(said("deny"), Said::Deny(None));
        assert_eq!((said(""), said("n"), said("q")), (Said::Next, Said::Next, Said::Quit));
        assert_eq!((said("y"), said("yes"), said("A")), (Said::Unknown, Said::Unknown, Said::Unknown));
    }

    #[test]
    fn times_are_told_as_far_as_they_matter() {
        let at = |s: i64| output::instant(1_790_000_000 + s);
        let now = 1_790_000_000;
        assert_eq!(ago(&at(-3), now), "just now");
        assert_eq!(ago(&at(-125), now), "2m5s ago");
        assert_eq!(ago(&at(-7325), now), "2h2m ago");
        assert_eq!(ago(&at(-266_000), now), "3d1h ago");
        assert_eq!(ago(&at(1700), now), "in 28m");
        assert_eq!(ago("no instant", now), "no instant");
    }
}
