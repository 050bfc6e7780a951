//! Second stage: who calls. One SHA-256 of what the client sent, one lookup in the snapshot; no store, no network. The
//! raw key goes nowhere else: not into errors, logs or rows.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tollgate_snapshot::model::{Key, KeyHash, Policy, Team};

use crate::error::{GatewayError, Result};
use crate::tables::{Builder, KeyState, Tables, TeamEntry};

/// Who calls, on the snapshot that the whole call is served with.
#[derive(Clone, Debug)]
pub struct Caller {
    pub tables: Arc<Tables>,
    pub who: Who,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The master key: everything, without limits and budgets of its own.
    Master,
    /// Index into the snapshot's keys.
    Key(u32),
    /// The operator, which asks whether a deployment works: index into the snapshot's deployments. Without limits, and
    /// booked to the deployment's namespace.
    Probe(u32),
}

static X_LITELLM_API_KEY: HeaderName = HeaderName::from_static("x-litellm-api-key");
static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The key text of a request. Of several headers the first of: `x-litellm-api-key`, `Authorization`, `x-api-key`,
/// `api-key`.
fn key_text(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers
        .get(http::header::AUTHORIZATION)
        .filter(|_| !headers.contains_key(&X_LITELLM_API_KEY))
        .or_else(|| headers.get(&X_LITELLM_API_KEY))
        .or_else(|| headers.get(&X_API_KEY))
        .or_else(|| headers.get(&API_KEY))?;
    let text = value.as_bytes().trim_ascii();
    let (scheme, rest) = text.split_at(text.len().min(b"bearer".len()));
    let bearer = scheme.eq_ignore_ascii_case(b"bearer") && rest.first().is_none_or(u8::is_ascii_whitespace);
    let text = if bearer { rest.trim_ascii() } else { text };
    (!text.is_empty()).then_some(text)
}

/// Finds out who calls. `now`: Unix seconds.
///
/// # Errors
/// 401 when there is no key, nobody knows it, or it is not valid now. Who holds a disabled or expired key is told so.
pub fn identify(tables: &Arc<Tables>, headers: &HeaderMap, now: i64) -> Result<Caller> {
    let text = key_text(headers).ok_or(GatewayError::KeyMissing)?;
    let hash = KeyHash::of(text);
    if let Some(index) = tables.find_key(&hash) {
        let key = &tables.snapshot.keys[index as usize];
        if key.disabled {
            return Err(GatewayError::KeyDisabled.into());
        }
        if let Some(expired) = key.expires_at.filter(|at| *at <= now) {
            let at = jiff::Timestamp::from_second(expired).map(|at| at.to_string()).unwrap_or_default();
            return Err(GatewayError::KeyExpired { at }.into());
        }
        let caller = Caller { tables: tables.clone(), who: Who::Key(index) };
        if let Some(team) = caller.team().filter(|team| team.blocked) {
            return Err(GatewayError::TeamBlocked { team: team.name.to_string() }.into());
        }
        return Ok(caller);
    }
    let master = tables.snapshot.gateway.master_key.as_ref();
    if master.is_some_and(|master| bool::from(subtle::ConstantTimeEq::ct_eq(&master.0[..], &hash.0[..]))) {
        return Ok(Caller { tables: tables.clone(), who: Who::Master });
    }
    Err(GatewayError::KeyUnknown.into())
}

impl Caller {
    pub fn key(&self) -> Option<&Key> {
        match self.who {
            Who::Master | Who::Probe(_) => None,
            Who::Key(index) => Some(&self.tables.snapshot.keys[index as usize]),
        }
    }

    pub fn policy(&self) -> Option<&Policy> {
        self.key().map(|key| &self.tables.snapshot.policies[key.policy as usize])
    }

    pub fn team(&self) -> Option<&Team> {
        let team = self.policy()?.team?;
        Some(&self.tables.snapshot.teams[team as usize])
    }

    /// Whether some models are not for it.
    pub fn is_restricted(&self) -> bool {
        let sets = [
            self.policy().and_then(|policy| policy.models.as_ref()),
            self.team().and_then(|team| team.models.as_ref()),
        ];
        sets.into_iter().flatten().any(|models| !models.is_all())
    }

    pub fn team_entry(&self) -> Option<&TeamEntry> {
        let team = self.policy()?.team?;
        Some(&self.tables.teams[team as usize])
    }

    /// The live state of the key.
    pub fn state<'a>(&'a self, builder: &Builder) -> &'a KeyState {
        match self.who {
            Who::Master => &self.tables.master,
            Who::Key(index) => self.tables.key_state(index, builder),
            Who::Probe(deployment) => &self.tables.deployments[deployment as usize].prober,
        }
    }

    pub fn is_master(&self) -> bool {
        self.who == Who::Master
    }

    /// Index of the namespace names are looked up in; `None` for a master key of a gateway whose namespace offers
    /// nothing.
    pub fn namespace(&self) -> Option<u32> {
        match self.policy() {
            Some(policy) => Some(policy.namespace),
            None => self.tables.home,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_key_is_found_in_every_header_that_clients_use() {
        for (header, value) in [
            ("authorization", "Bearer sk-1"),
            ("authorization", "bearer  sk-1 "),
            ("authorization", "sk-1"),
            ("x-api-key", "sk-1"),
            ("api-key", "sk-1"),
            ("x-litellm-api-key", "Bearer sk-1"),
            ("x-litellm-api-key", "sk-1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header, HeaderValue::from_static(value));
            assert_eq!(key_text(&headers), Some(&b"sk-1"[..]), "{header}: {value}");
        }
    }

    #[test]
    fn our_own_header_wins_and_an_empty_one_is_none() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer other"));
        headers.insert("x-litellm-api-key", HeaderValue::from_static("sk-1"));
        assert_eq!(key_text(&headers), Some(&b"sk-1"[..]));
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer "));
        assert_eq!(key_text(&headers), None);
    }
}
