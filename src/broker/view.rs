//! Documents made of the state, for one viewer: what they may see, and nothing else.

use std::collections::BTreeSet;

use super::Broker;
use crate::domain::authority::Purpose;
use crate::domain::database::Database;
use crate::domain::decide::{Now, progress};
use crate::domain::event::Proof;
use crate::domain::event::{Command, Entry};
use crate::domain::grant::{Grant, GrantState};
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::judge::{Ask, Step, Touch, Verdict, nearest, preview};
use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::person::Person;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::request::{Request, RequestState};
use crate::domain::session::{GATEWAY_ALIAS, Gateway};
use crate::domain::span::show_span;
use crate::domain::state::{Beside, State};
use crate::domain::target::{HostIdentity, Mode, Target, TargetKind};
use crate::wire::{DatabaseDoc, ErrorDoc, GrantDoc, ProofDoc, RequestDoc, RoleDoc, StepDoc, TargetDoc, WhyDoc};

/// The most requests in one answer.
const MOST: usize = 200;

/// RFC 3339 in UTC, whole seconds.
pub fn instant(at: i64) -> String {
    jiff::Timestamp::from_second(at).map_or_else(|_| at.to_string(), |t| t.to_string())
}

fn missing(what: &str) -> Refusal {
    Refusal::new(Code::MISSING, format!("There is no such {what}, or you may not know of it."))
}

fn step_doc(step: &Step, approved_by: &[PersonName], open: bool) -> StepDoc {
    StepDoc {
        name: step.name.to_string(),
        need: step.need,
        from: step.from.clone(),
        eligible: step.eligible.iter().cloned().collect(),
        approved_by: approved_by.to_vec(),
        open,
        presence: step.touch == Touch::Required,
    }
}

impl Broker {
    /// A request, for one of those whom it concerns.
    ///
    /// # Errors
    /// [`Code::MISSING`] for everybody else.
    pub async fn request_doc(&self, viewer: &PersonName, id: RequestId) -> Result<RequestDoc, Refusal> {
        let here = self.memory().await.state.requests.contains_key(&id);
        let past = if here { None } else { self.past_request(id).await };
        let (mut doc, words, denial) = {
            let memory = self.memory().await;
            let (request, beside): (&Request, &dyn Beside) = match (memory.state.requests.get(&id), &past) {
                (Some(request), _) => (request, &memory.shelf),
                (None, Some((request, shelf))) => (request, shelf),
                (None, None) => return Err(missing("request")),
            };
            let doc = self.shape_request(&memory.state, beside, viewer, request);
            let concerned = request.person == *viewer
                || request.approvals.iter().any(|a| a.by == *viewer)
                || doc.steps.iter().any(|s| s.eligible.contains(viewer))
                || memory.state.is_operator(viewer)
                || memory.state.is_auditor(viewer);
            if !concerned {
                return Err(missing("request"));
            }
            let denial = match &request.state {
                RequestState::Denied { words, .. } => *words,
                _ => None,
            };
            (doc, request.words, denial)
        };
        if let Some(words) = self.words(words).await {
            (doc.reason, doc.ticket) = (words.reason, words.ticket);
        }
        doc.denial = self.words(denial).await.and_then(|w| w.reason);
        doc.act = self.act_of(id).await;
        Ok(doc)
    }

    /// The signed bytes of a request, out of the log.
    async fn act_of(&self, id: RequestId) -> Option<String> {
        let filter = crate::ledger::Filter {
            request_id: Some(id.to_string()),
            kind: Some("request.submitted".to_owned()),
            limit: 1,
            ..Default::default()
        };
        let leaf = self.reader().search(&filter).await.ok()?.into_iter().next()?;
        let entry: crate::domain::event::Entry = serde_json::from_slice(&leaf.bytes).ok()?;
        match entry.cause {
            Some(Command::Act(signed) | Command::Attested(signed)) => Some(signed.act),
            _ => None,
        }
    }

    fn shape_request(&self, state: &State, beside: &dyn Beside, viewer: &PersonName, request: &Request) -> RequestDoc {
        let terms = request.standing_terms();
        let now = Now { at: self.now(), beside };
        let mut refusal = None;
        let mut steps = Vec::new();
        match progress(state, request, now) {
            Ok((_, views)) => {
                let pending = request.state == RequestState::Pending;
                let first_open = views.iter().position(|v| v.need_left() > 0);
                for (i, view) in views.iter().enumerate() {
                    steps.push(step_doc(&view.step, &view.approved_by, pending && first_open == Some(i)));
                }
            }
            Err(found) => refusal = (request.state == RequestState::Pending).then_some(found),
        }
        let (mut grant_id, mut denied_by) = (None, None);
        match &request.state {
            RequestState::Approved { grant } => grant_id = *grant,
            RequestState::Covered { grant } => grant_id = Some(*grant),
            RequestState::Denied { by, .. } => denied_by = Some(by.clone()),
            RequestState::Refused { refusal: why } | RequestState::Invalidated { refusal: why } => {
                refusal = Some(why.clone());
            }
            _ => {}
        }
        let yours = steps.iter().any(|s| s.open && s.eligible.contains(viewer))
            && !request.approvals.iter().any(|a| a.by == *viewer);
        RequestDoc {
            schema: "jit-broker/request/v1".to_owned(),
            id: request.id,
            state: request.state.word().to_owned(),
            target: terms.target.clone(),
            role: terms.role.clone(),
            requester: request.person.clone(),
            attested: request.attested,
            reason: None,
            ticket: None,
            for_s: terms.for_s,
            start_at: None,
            extends: request.extends.map(|extension| extension.grant),
            until: request.extends.map(|extension| instant(extension.until)),
            created_at: instant(request.created_at),
            answer_by: instant(request.answer_by),
            code: request.code.clone(),
            steps,
            grant_id,
            digest: request.digest,
            terms,
            act: None,
            refusal: refusal.as_ref().map(ErrorDoc::from),
            denied_by,
            denial: None,
            yours,
        }
    }

    /// Requests of a scope: `mine`, `answer` (what waits for the viewer) or `all`.
    ///
    /// # Errors
    /// [`Code::NOT_OFFICE`] for `all` without an office.
    pub async fn request_docs(&self, viewer: &PersonName, scope: &str) -> Result<Vec<RequestDoc>, Refusal> {
        let mine = if scope == "mine" { self.asked_by(viewer).await } else { BTreeSet::new() };
        let ids: Vec<RequestId> = {
            let memory = self.memory().await;
            let state = &memory.state;
            match scope {
                "mine" => mine,
                "answer" => state
                    .open_requests
                    .iter()
                    .filter_map(|id| state.requests.get(id))
                    .filter(|r| self.shape_request(state, &memory.shelf, viewer, r).yours)
                    .map(|r| (r.created_at, r.id))
                    .collect(),
                _ if state.is_operator(viewer) || state.is_auditor(viewer) => state
                    .open_requests
                    .iter()
                    .filter_map(|id| state.requests.get(id))
                    .map(|r| (r.created_at, r.id))
                    .collect(),
                _ => {
                    return Err(Refusal::new(
                        Code::NOT_OFFICE,
                        "Auditors and operators alone see everybody's requests.",
                    ));
                }
            }
            .into_iter()
            .map(|(_, id)| id)
            .collect()
        };
        // What waits is answered oldest first; of one's own the newest is looked for.
        let ids: Vec<RequestId> = if scope == "mine" { ids.into_iter().rev().collect() } else { ids };
        let mut docs = Vec::new();
        for id in ids.into_iter().take(MOST) {
            docs.push(self.request_doc(viewer, id).await?);
        }
        Ok(docs)
    }

    /// The newest requests of a person, out of the log: most of them have left memory.
    async fn asked_by(&self, person: &PersonName) -> BTreeSet<(i64, RequestId)> {
        let filter = crate::ledger::Filter {
            actor: Some(person.to_string()),
            kind: Some("request.submitted".to_owned()),
            limit: u32::try_from(MOST).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let leaves = self.reader().search(&filter).await.unwrap_or_default();
        let entries = leaves.iter().filter_map(|leaf| serde_json::from_slice::<Entry>(&leaf.bytes).ok());
        entries.filter_map(|e| e.event.concerns().request.map(|id| (e.at, id))).collect()
    }

    /// A grant, for one of those whom it concerns.
    ///
    /// # Errors
    /// [`Code::MISSING`] for everybody else.
    pub async fn grant_doc(&self, viewer: &PersonName, id: GrantId) -> Result<GrantDoc, Refusal> {
        let here = self.memory().await.state.grants.get(&id).cloned();
        let grant = match here {
            Some(grant) => grant,
            None => self.past_grant(id).await.ok_or_else(|| missing("grant"))?,
        };
        let here = self.memory().await.state.requests.get(&grant.request).cloned();
        let request = match here {
            Some(request) => Some(request),
            None => self.past_request(grant.request).await.map(|(request, _)| request),
        };
        let approver = request.is_some_and(|r| r.approvals.iter().any(|a| a.by == *viewer));
        let memory = self.memory().await;
        let state = &memory.state;
        if grant.person == *viewer || approver || state.is_operator(viewer) || state.is_auditor(viewer) {
            return Ok(shape_grant(&grant, self.now()));
        }
        Err(missing("grant"))
    }

    /// The grants of the viewer (`mine`), or of everybody that are not over (`all`).
    ///
    /// # Errors
    /// [`Code::NOT_OFFICE`] for `all` without an office.
    pub async fn grant_docs(&self, viewer: &PersonName, scope: &str) -> Result<Vec<GrantDoc>, Refusal> {
        let memory = self.memory().await;
        let (state, now) = (&memory.state, self.now());
        if scope == "mine" {
            return Ok(state.open_grants_of(viewer).map(|g| shape_grant(g, now)).collect());
        }
        if !state.is_operator(viewer) && !state.is_auditor(viewer) {
            return Err(Refusal::new(Code::NOT_OFFICE, "Auditors and operators alone see everybody's grants."));
        }
        let open = state.open_grants.iter().filter_map(|id| state.grants.get(id));
        Ok(open.map(|g| shape_grant(g, now)).collect())
    }

    /// The targets, with what the viewer may ask for on each. A target without any rule for the viewer is not shown.
    pub async fn target_docs(&self, viewer: &PersonName) -> Vec<TargetDoc> {
        let memory = self.memory().await;
        let (state, now) = (&memory.state, self.now());
        let Some(person) = state.person(viewer) else { return Vec::new() };
        let all = state.is_operator(viewer) || state.is_auditor(viewer);
        let targets = state.bundle.targets.values().filter(|t| t.kind != TargetKind::Broker);
        targets
            .map(|target| shape_target(state, self.gateway(), &person, target, now))
            .filter(|doc| all || doc.roles.iter().any(|role| role.verdict != "never"))
            .collect()
    }

    /// What policy says of an ask, without asking.
    ///
    /// # Errors
    /// [`Code::MISSING`] for unknown targets and roles; [`Code::NOT_OFFICE`] when it is about somebody else.
    pub async fn why(
        &self,
        viewer: &PersonName,
        about: Option<&PersonName>,
        target: &TargetName,
        role: Option<&RoleName>,
        for_s: Option<u64>,
    ) -> Result<WhyDoc, Refusal> {
        let memory = self.memory().await;
        let (state, now) = (&memory.state, self.now());
        let who = about.unwrap_or(viewer);
        // Whoever is asked for an answer may know why they are.
        let asked = || {
            let theirs = state.pending_of(who).filter_map(|id| state.requests.get(id));
            let theirs = theirs.filter(|r| r.terms.target == *target);
            theirs.map(|r| self.shape_request(state, &memory.shelf, viewer, r)).any(|doc| doc.yours)
        };
        if who != viewer && !state.is_operator(viewer) && !state.is_auditor(viewer) && !asked() {
            return Err(Refusal::new(Code::NOT_OFFICE, "Operators and auditors alone ask for somebody else."));
        }
        let person = state.person(who).ok_or_else(|| missing("person"))?;
        let found = state.bundle.targets.get(target).ok_or_else(|| missing("target"))?;
        let role = match role {
            Some(role) if found.roles.contains_key(role) => role.clone(),
            Some(role) => return Err(Refusal::new(Code::NO_ROLE, format!("{target} has no role {role}."))),
            None if found.roles.len() == 1 => found.roles.keys().next().cloned().ok_or_else(|| missing("role"))?,
            None => {
                let names: Vec<&str> = found.roles.keys().map(RoleName::as_str).collect();
                return Err(Refusal::new(Code::USAGE, format!("{target} has several roles: {}.", names.join(", ")))
                    .hint(format!("jit-broker why {target} --role {}", names.first().unwrap_or(&"ROLE"))));
            }
        };
        Ok(shape_why(state, &person, found, &role, for_s, now))
    }
}

fn ask<'a>(
    state: &'a State,
    person: &'a Person,
    target: &'a Target,
    role: &'a RoleName,
    for_s: Option<u64>,
    now: i64,
) -> Ask<'a> {
    let signed_in_s = state.signed_in.get(&person.name).map(|t| u64::try_from(now.saturating_sub(*t)).unwrap_or(0));
    Ask { person, target, role, for_s, reason: None, ticket: None, signed_in_s, disabled: &state.disabled, now }
}

fn shape_why(state: &State, person: &Person, target: &Target, role: &RoleName, for_s: Option<u64>, now: i64) -> WhyDoc {
    let ask = ask(state, person, target, role, for_s, now);
    let (verdict, needs) = preview(&state.bundle, &ask);
    let mut doc = WhyDoc {
        schema: "jit-broker/why/v1".to_owned(),
        person: person.name.clone(),
        target: target.name.clone(),
        role: role.clone(),
        verdict: "never".to_owned(),
        rules: Vec::new(),
        max_s: None,
        min_reason_chars: needs.min_reason_chars,
        ticket_pattern: needs.ticket_pattern,
        steps: Vec::new(),
        refusal: None,
        nearest: None,
    };
    match verdict {
        Verdict::Refused(refusal) => {
            doc.refusal = Some((&refusal).into());
            doc.nearest = nearest(&state.bundle, &ask).map(|n| {
                let span = show_span(n.for_s);
                format!("jit-broker request {} --role {} --for {span} --reason \"…\"", target.name, n.role)
            });
        }
        Verdict::Automatic(allowed) => {
            (doc.verdict, doc.rules, doc.max_s) = ("automatic".to_owned(), allowed.rules, Some(allowed.max_s));
        }
        Verdict::Steps(allowed, steps) => {
            (doc.verdict, doc.rules, doc.max_s) = ("ask".to_owned(), allowed.rules, Some(allowed.max_s));
            doc.steps = steps.iter().map(|s| step_doc(s, &[], false)).collect();
        }
    }
    doc
}

fn shape_target(state: &State, gateway: Option<&Gateway>, person: &Person, target: &Target, now: i64) -> TargetDoc {
    let roles = target
        .roles
        .iter()
        .map(|(name, role)| {
            let why = shape_why(state, person, target, name, None, now);
            let grant = state
                .open_grants_of(&person.name)
                .filter(|g| g.terms.target == target.name && g.terms.role == *name && g.live_at(now).is_ok())
                .filter(|g| !state.is_attested(g))
                .max_by_key(|g| (g.ends_at, g.id));
            RoleDoc {
                name: name.clone(),
                logins: role.logins.clone(),
                allow: role.allow.iter().copied().collect(),
                narrower_than: role.narrower_than.iter().cloned().collect(),
                gives: role.database.as_ref().map(crate::domain::database::DatabaseRole::words),
                verdict: if grant.is_some() { "active".to_owned() } else { why.verdict },
                max_s: why.max_s,
                who: why
                    .steps
                    .iter()
                    .flat_map(|s| s.from.iter().cloned())
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                grant_id: grant.map(|g| g.id),
                left_s: grant.map(|g| g.ends_at - now),
            }
        })
        .collect();
    let gateway = gateway.filter(|_| target.mode == Mode::Gateway);
    let reached = gateway.map_or(&target.address, |gateway| &gateway.address);
    TargetDoc {
        name: target.name.clone(),
        kind: target.kind.word().to_owned(),
        host: reached.host.clone(),
        port: reached.port,
        alias: gateway.map_or(target.name.as_str(), |_| GATEWAY_ALIAS).to_owned(),
        mode: match target.mode {
            Mode::Direct => "direct".to_owned(),
            Mode::Gateway => "gateway".to_owned(),
        },
        labels: target.labels.clone(),
        known_hosts: known_hosts(state, target),
        database: target.database.as_ref().map(database_doc),
        roles,
    }
}

/// What clients of a database are told of it.
pub fn database_doc(database: &Database) -> DatabaseDoc {
    DatabaseDoc {
        name: database.name.clone(),
        auth: database.auth,
        tls_name: database.tls_name.clone(),
        tls_ca: database.tls_ca.clone(),
    }
}

/// One line for each authority over host certificates; several while one is being replaced.
fn believed(state: &State, name: &str) -> String {
    let keys = state.authorities.ssh_trusted(Purpose::SshHost);
    let lines: Vec<String> = keys.iter().map(|key| format!("@cert-authority {name} {key}")).collect();
    lines.join("\n")
}

fn known_hosts(state: &State, target: &Target) -> String {
    if target.mode == Mode::Gateway {
        return believed(state, GATEWAY_ALIAS);
    }
    match &target.host {
        HostIdentity::Key(key) => format!("{} {key}", target.name),
        HostIdentity::BrokerCa => believed(state, target.name.as_str()),
        HostIdentity::Tls => String::new(),
    }
}

fn shape_grant(grant: &Grant, now: i64) -> GrantDoc {
    let (mut cause, mut proofs, mut waits_for, mut latest_end) = (None, Vec::new(), Vec::new(), None);
    let (mut left, mut kept) = (Vec::new(), Vec::new());
    match &grant.state {
        GrantState::Ending { cause: why, .. } => {
            cause = Some(*why);
            waits_for.push(grant.terms.target.clone());
            latest_end = (grant.account.is_none() && !grant.terms.gateway).then(|| instant(grant.latest_end()));
        }
        GrantState::Residue { cause: why, left: found, .. } => {
            cause = Some(*why);
            waits_for.push(grant.terms.target.clone());
            left.clone_from(found);
        }
        GrantState::Ended { cause: why, proofs: found, kept: stays, .. } => {
            kept.clone_from(stays);
            cause = Some(*why);
            let doc =
                |p: &Proof| ProofDoc { what: p.what.clone(), ok: p.ok, at: instant(p.at), detail: p.detail.clone() };
            proofs = found.iter().map(doc).collect();
        }
        _ => {}
    }
    GrantDoc {
        schema: "jit-broker/grant/v1".to_owned(),
        id: grant.id,
        request_id: grant.request,
        state: grant.state.word().to_owned(),
        target: grant.terms.target.clone(),
        role: grant.terms.role.clone(),
        logins: grant.terms.logins.clone(),
        person: grant.person.clone(),
        keys: grant.keys.clone(),
        starts_at: instant(grant.starts_at),
        ends_at: instant(grant.ends_at),
        left_s: grant.live_at(now).map_or(0, |live| live.ends_at - now),
        claim_by: instant(grant.claim_by),
        cause: cause.and_then(|c| serde_json::to_value(c).ok()?.as_str().map(str::to_owned)),
        proofs,
        waits_for,
        latest_end,
        gateway: grant.terms.gateway,
        sessions: grant.legs.len() as u64,
        account: grant.account.as_ref().map(|account| account.name.clone()),
        left,
        kept,
    }
}
