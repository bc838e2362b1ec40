//! `extend`: a grant goes on as another one, which people agree to as to the first.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::answer::find_grant;
use super::ask::{LONG, me, print_grant, print_request, target, words};
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::wait::{complete, outcome, wait_for};
use super::{Globals, database, output, prompt, ssh};
use crate::domain::act::Deed;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::span::parse_span;
use crate::wire::{GrantDoc, RequestDoc, WhyDoc};

/// `jit-broker extend`
#[derive(Debug, Args)]
pub struct ExtendArgs {
    /// The grant: its id or a prefix
    id: String,
    /// So much longer than it lasts now: 15m, 1h. Policy's longest time counts from now to the new end
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true)]
    for_: String,
    /// Why; those who approve read it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The ticket it is for
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
    /// Does not wait for an answer
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// Waits for an answer, at most so long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "8h", require_equals = true)]
    wait: Option<String>,
}

impl ExtendArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// The refusal, a denial, or that it still waits.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        let by_s = parse_span(&self.for_)?;
        let old = find_grant(&mut client, &self.id).await?;
        let asked = self.ask(&mut client, &old, by_s).await?;
        let patience = match &self.wait {
            Some(d) => Duration::from_secs(parse_span(d)?),
            None if self.no_wait || !prompt::possible() => Duration::ZERO,
            None => LONG,
        };
        let answered = wait_for(&mut client, asked, patience).await?;
        let grant = match outcome(&mut client, &answered).await {
            Ok(grant) => grant,
            Err(failure) => {
                print_request(&answered, globals)?;
                let asynchronous = failure.0.code == Code::PENDING && patience.is_zero();
                return if asynchronous { Ok(ExitCode::SUCCESS) } else { Err(failure) };
            }
        };
        claim(&mut client, &grant).await?;
        let now: GrantDoc = client.get(&format!("/v1/grants/{}", grant.id)).await?;
        print_grant(&now, globals)?;
        eprintln!("{}", what_goes_on(&now));
        Ok(ExitCode::SUCCESS)
    }

    async fn ask(&self, client: &mut Client, old: &GrantDoc, by_s: u64) -> Result<RequestDoc, Failure> {
        let by = me(client)?;
        let again = format!("jit-broker login {} --role {}", old.target, old.role);
        if old.person != by {
            return Err(Failure::new(Code::MISSING, format!("Grant {} is {}'s, not yours.", old.id, old.person)));
        }
        if old.left_s <= 0 {
            let message =
                format!("Grant {} is {} already.", old.id, if old.state == "active" { "ended" } else { &old.state });
            return Err(Failure(Refusal::new(Code::WINDOW_CLOSED, message).hint(format!("Ask again: {again}"))));
        }
        let ends_at = old.ends_at.parse::<jiff::Timestamp>().map_err(|e| Failure::local("the grant's end", e))?;
        let until = ends_at.as_second().saturating_add(i64::try_from(by_s).unwrap_or(i64::MAX));
        let found = target(client, &old.target).await?;
        let key = match found.database {
            Some(_) => database::client_key(client.home(), &old.target)?,
            None => ssh::client_key(client.home(), &old.target)?,
        };
        let (mut reason, mut ticket) = (self.reason.clone(), self.ticket.clone());
        if prompt::possible() {
            (reason, ticket) = complete(client, &old.target, &old.role, (reason, ticket)).await?;
        }
        let (target, role) = (old.target.clone(), old.role.clone());
        let deed = Deed::Extend { by, grant: old.id, target, role, until, key };
        match client.act(deed, words(reason.as_deref(), ticket.as_deref())?, None).await {
            Ok(made) => made.request.ok_or_else(|| Failure::new(Code::BUG, "The broker answered without a request.")),
            Err(mut failure) if failure.0.code == Code::TOO_LONG => {
                failure.0.hint = shorter(client, old).await.or(failure.0.hint);
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The extension that policy would allow now.
async fn shorter(client: &mut Client, old: &GrantDoc) -> Option<String> {
    let why: WhyDoc = client.get(&format!("/v1/why?target={}&role={}", old.target, old.role)).await.ok()?;
    let most = i64::try_from(why.max_s?).ok()? - old.left_s;
    if most < 60 {
        return Some("Ask again when less of it is left: policy's longest time counts from now.".to_owned());
    }
    let id = old.id;
    Some(format!("jit-broker extend {id} --for {} --reason \"…\"", output::span(most - most % 60)))
}

/// Uses the new grant at once, so that it does not lapse while the old one still lasts.
async fn claim(client: &mut Client, grant: &GrantDoc) -> Result<(), Failure> {
    match target(client, &grant.target).await?.database {
        Some(found) => database::ensure(client, grant, found.auth).await.map(drop),
        None => ssh::ensure(client, grant).await.map(drop),
    }
}

/// What becomes of what is open now.
fn what_goes_on(grant: &GrantDoc) -> String {
    if grant.account.is_some() {
        "It is an account of its own: what is open ends with the old one; connect again before that.".to_owned()
    } else if grant.gateway {
        format!("Open sessions go on until {}.", grant.ends_at)
    } else {
        format!("New connections are let in until {}.", grant.ends_at)
    }
}
