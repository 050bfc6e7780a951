//! Fourth and fifth stage: may this caller ask for this model, and is it within its rates. What passes is an
//! [`Admitted`] call that counts against the limits of its key and team until it ends.

use std::rc::Rc;
use std::time::Instant;

use tollgate_dialects::head::Operation;
use tollgate_snapshot::model::{Limits, ModelSet};

use crate::call::Call;
use crate::caller::{Caller, Who};
use crate::core::Core;
use crate::error::{GatewayError, Result, Scope};
use crate::limits::{LimitType, Permit, Usage};

/// A call that may be served.
pub struct Admitted {
    pub caller: Caller,
    pub call: Box<Call>,
    /// Index of the route that the name leads to.
    pub route: u32,
    /// The public name after aliases; what wildcards match and rows show.
    pub model: Box<str>,
    /// Cap on output tokens that the client set.
    pub asked_output: Option<u64>,
    /// Routes the client names as fallbacks, all of them allowed to it.
    pub fallbacks: Vec<u32>,
    pub permits: RequestPermits,
}

/// What a call holds of the limits of its key and team.
#[derive(Debug, Default)]
pub struct RequestPermits {
    pub key: Option<Permit>,
    pub per_model: Option<Permit>,
    pub team: Option<Permit>,
    /// Of the teams above that have limits.
    pub above: Vec<Permit>,
}

impl RequestPermits {
    /// Replaces the reserved tokens by what was used.
    pub fn settle(&mut self, tokens: u64) {
        for permit in [&mut self.key, &mut self.per_model, &mut self.team].into_iter().flatten().chain(&mut self.above)
        {
            permit.settle(tokens);
        }
    }
}

/// Decides whether a call may go on.
///
/// # Errors
/// 400 for names that lead nowhere, 403 for models that key or team do not allow, 429 for limits.
pub fn admit(core: &Rc<Core>, caller: Caller, call: Box<Call>, now: Instant) -> Result<Admitted> {
    let asked = call.model().ok_or(GatewayError::ModelMissing)?;
    let (route, model) = find_model(&caller, asked)?;
    let asked_output = call.head.output_cap();
    let model = model.into();
    let mut fallbacks = Vec::new();
    for name in &call.fallbacks {
        fallbacks.push(find_model(&caller, name)?.0);
    }
    let permits = RequestPermits::default();
    let mut admitted = Admitted { route, model, asked_output, fallbacks, permits, caller, call };
    if admitted.call.operation != Operation::CountTokens {
        admitted.permits = take_limits(core, &admitted, now)?;
    }
    if let Who::Key(_) = admitted.caller.who {
        admitted.caller.state(&core.shared.builder).usage.note(core.unix_ms(now) / 1000);
    }
    Ok(admitted)
}

/// The route and public name behind what the client asked for.
fn find_model<'a>(caller: &'a Caller, asked: &'a str) -> Result<(u32, &'a str)> {
    let tables = &caller.tables;
    let unknown = || Box::new(GatewayError::ModelUnknown { model: shown(asked) });
    let Some(policy) = caller.policy() else {
        // The master key: its gateway's namespace, and any other as `namespace/model`.
        let home = caller.namespace().and_then(|namespace| tables.find_route(namespace, asked));
        if let Some(route) = home {
            return Ok((route, asked));
        }
        let elsewhere = asked.split_once('/').and_then(|(namespace, name)| {
            let route = tables.find_route(tables.find_namespace(namespace)?, name)?;
            Some((route, name))
        });
        return elsewhere.ok_or_else(unknown);
    };
    let alias = policy.aliases.iter().find(|(alias, _)| **alias == *asked);
    let name = alias.map_or(asked, |(_, target)| target);
    let route = tables.find_route(policy.namespace, name).ok_or_else(unknown)?;
    let allows = |set: &Option<ModelSet>| set.as_ref().map(|set| set.contains(name));
    let key_allows = allows(&policy.models);
    let team_allows = caller.team().and_then(|team| allows(&team.models));
    let refused = |scope, name: String| Box::new(GatewayError::ModelNotAllowed { model: shown(asked), scope, name });
    let key_name = || caller.key().map(|key| key.name.to_string()).unwrap_or_default();
    match (key_allows, team_allows) {
        (Some(false), _) => Err(refused(Scope::Key, key_name())),
        (_, Some(false)) => {
            Err(refused(Scope::Team, caller.team().map(|team| team.name.to_string()).unwrap_or_default()))
        }
        // Neither says anything: nothing is allowed.
        (None, None) => Err(refused(Scope::Key, key_name())),
        _ => Ok((route, name)),
    }
}

/// A client's text in an error: bounded, without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|one| !one.is_control()).take(128).collect()
}

fn take_limits(core: &Rc<Core>, admitted: &Admitted, now: Instant) -> Result<RequestPermits> {
    let mut permits = RequestPermits::default();
    let Some(policy) = admitted.caller.policy() else { return Ok(permits) };
    let seconds = core.uptime_seconds(now);
    let tokens = estimated_tokens(&admitted.call, admitted.asked_output);
    let state = admitted.caller.state(&core.shared.builder);
    let team = admitted.caller.team().zip(admitted.caller.team_entry());
    if !policy.limits.is_unlimited() {
        let value = || admitted.caller.key().map(|key| key.name.to_string()).unwrap_or_default();
        permits.key = Some(take(&state.usage, &policy.limits, tokens, seconds, "api_key", value)?);
    }
    let per_model = policy.per_model.iter().position(|(name, _)| **name == *admitted.model);
    if let Some(index) = per_model {
        let (name, limits) = &policy.per_model[index];
        let taken = take(&state.per_model[index], limits, tokens, seconds, "model_per_key", || name.to_string());
        permits.per_model = Some(refund_on_error(taken, &mut [&mut permits.key])?);
    }
    if let Some((team, entry)) = team.filter(|(team, _)| !team.limits.is_unlimited()) {
        let taken = take(&entry.usage, &team.limits, tokens, seconds, "team", || team.name.to_string());
        permits.team = Some(refund_on_error(taken, &mut [&mut permits.key, &mut permits.per_model])?);
    }
    for &above in team.map_or(&[][..], |(team, _)| &team.above) {
        let tables = &admitted.caller.tables;
        let (team, entry) = (&tables.snapshot.teams[above as usize], &tables.teams[above as usize]);
        if team.limits.is_unlimited() {
            continue;
        }
        match take(&entry.usage, &team.limits, tokens, seconds, "team", || team.name.to_string()) {
            Ok(permit) => permits.above.push(permit),
            Err(error) => {
                let RequestPermits { key, per_model, team, above } = &mut permits;
                [key, per_model, team].into_iter().flatten().chain(above).for_each(Permit::refund);
                return Err(error);
            }
        }
    }
    Ok(permits)
}

/// A call that one limit refuses counts at none.
fn refund_on_error(taken: Result<Permit>, others: &mut [&mut Option<Permit>]) -> Result<Permit> {
    if taken.is_err() {
        others.iter_mut().for_each(|other| {
            if let Some(permit) = other.as_mut() {
                permit.refund();
            }
        });
    }
    taken
}

fn take(
    usage: &std::sync::Arc<Usage>,
    limits: &Limits,
    tokens: u64,
    now: u64,
    scope: &'static str,
    value: impl Fn() -> String,
) -> Result<Permit> {
    usage.take(limits, tokens, now).map_err(|reached| {
        let limit_type: LimitType = reached.limit_type;
        let (limit, remaining, resets_in) = (reached.limit, reached.remaining, reached.resets_in);
        GatewayError::RateLimited { scope, value: value(), limit_type, limit, remaining, resets_in }.into()
    })
}

/// Tokens to reserve: about four bytes a token, and the output that was asked for.
pub fn estimated_tokens(call: &Call, asked_output: Option<u64>) -> u64 {
    let output = if call.operation == Operation::Embeddings { 0 } else { asked_output.unwrap_or(0) };
    (call.body.len() as u64 / 4).saturating_add(output)
}
