//! A request: what was asked, who has agreed, and how it came out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::act::{Deed, Terms};
use super::digest::Digest;
use super::ids::{GrantId, RequestId};
use super::key::Key;
use super::names::{PersonName, RuleId, StepName};
use super::refusal::Refusal;

/// One request. What was asked never changes; its digest is what approvers sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// The digest of its act.
    pub digest: Digest,
    /// Who asked.
    pub person: PersonName,
    /// The key that the certificate is for; none for what `broker/policy` guards.
    pub key: Option<Key>,
    /// The terms as asked.
    pub terms: Arc<Terms>,
    /// Two words that everyone who looks at it sees.
    pub code: String,
    /// When, in Unix seconds.
    pub created_at: i64,
    /// The last moment for an answer.
    pub answer_by: i64,
    /// The rules that matched.
    pub rules: Vec<RuleId>,
    /// Commitment to reason and ticket.
    pub words: Option<Digest>,
    /// What is done once people have agreed, where it is neither a grant nor a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deed: Option<Box<Deed>>,
    /// Fingerprint of the key that signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fp: Option<String>,
    /// A gateway said so, and nobody signed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attested: bool,
    /// The grant that is to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<Extension>,
    /// Who agreed so far, in order.
    pub approvals: Vec<Approval>,
    /// How it stands.
    pub state: RequestState,
}

/// What an extension is about (decisions.md 25): a grant of its own, which ends at a moment that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// The grant that goes on.
    pub grant: GrantId,
    /// The end that was asked for, in Unix seconds: the new grant's, however long people took to agree.
    pub until: i64,
}

/// One approval, as signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The step it was given for.
    pub step: StepName,
    /// By whom.
    pub by: PersonName,
    /// Whether a security key was touched.
    pub touched: bool,
    /// On which terms.
    pub terms: Arc<Terms>,
    /// When.
    pub at: i64,
    /// Commitment to a note.
    pub words: Option<Digest>,
    /// Fingerprint of the key that signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fp: Option<String>,
}

/// How a request stands (product.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// People are asked.
    Pending,
    /// Granted.
    Approved {
        /// The grant; none for a change of the bundle.
        grant: Option<GrantId>,
    },
    /// Refused by rule.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// A live grant does it already.
    Covered {
        /// Which.
        grant: GrantId,
    },
    /// A person said no.
    Denied {
        /// Who.
        by: PersonName,
        /// Commitment to the reason.
        words: Option<Digest>,
    },
    /// The requester took it back.
    Withdrawn,
    /// Nobody answered in time.
    Expired,
    /// Rules or terms changed so that it can no longer be granted.
    Invalidated {
        /// Why.
        refusal: Refusal,
    },
}

impl RequestState {
    /// The grant that it led to.
    pub fn grant(&self) -> Option<GrantId> {
        match self {
            Self::Approved { grant } => *grant,
            Self::Covered { grant } => Some(*grant),
            _ => None,
        }
    }

    /// The word of product.md.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved { .. } => "approved",
            Self::Refused { .. } => "refused",
            Self::Covered { .. } => "covered",
            Self::Denied { .. } => "denied",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::Invalidated { .. } => "invalidated",
        }
    }
}

impl Request {
    /// The terms that stand: the asked ones, made narrower by every approval.
    pub fn standing_terms(&self) -> Terms {
        self.approvals.iter().fold(Terms::clone(&self.terms), |mut terms, approval| {
            terms.for_s = terms.for_s.min(approval.terms.for_s);
            if approval.terms.role != self.terms.role {
                terms.role = approval.terms.role.clone();
                terms.logins = approval.terms.logins.clone();
                terms.allow = approval.terms.allow.clone();
                terms.database = approval.terms.database.clone();
            }
            terms
        })
    }
}
