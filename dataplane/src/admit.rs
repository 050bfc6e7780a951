//! Fourth and fifth stage: may this caller ask for this model, and is it within its rates. What passes is an
//! [`Admitted`] call that counts against the limits of its key and team until it ends.

use std::rc::Rc;
use std::time::Instant;

use tollgate_dialects::head::Operation;
use tollgate_snapshot::model::{Limits, ModelSet, Name};

use crate::call::Call;
use crate::caller::{Caller, Who};
use crate::core::Core;
use crate::error::{GatewayError, Result, Scope};
use crate::limits::{Estimate, LimitScope, Permit, Spent, Usage, small_output};
use crate::rules;
use crate::share::PATIENCE;

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
    /// Cap on the output where the client set none: some limit that binds the call is small.
    pub small_output: Option<u64>,
}

impl Admitted {
    fn let_in(&mut self, permits: RequestPermits) {
        self.small_output = permits.small_output;
        self.permits = permits;
    }
}

/// What a call holds of the limits of its key and team, and of others.
#[derive(Debug, Default)]
pub struct RequestPermits {
    pub key: Option<Permit>,
    pub per_model: Option<Permit>,
    pub team: Option<Permit>,
    /// Of all else that binds it; seldom anything.
    pub further: Vec<(LimitScope, Permit)>,
    /// What [`Admitted`] has of it.
    small_output: Option<u64>,
}

impl RequestPermits {
    /// Replaces the reserved tokens by what was used. `None`: nobody knows, and what was reserved stays.
    pub fn settle(&mut self, spent: Option<Spent>) {
        if let Some(spent) = spent {
            self.each(|permit| permit.settle(spent));
        }
    }

    /// The client is gone: others may have its places among calls at once. Tokens are settled as ever.
    pub fn leave(&mut self) {
        self.each(Permit::leave);
    }

    /// Those that there are, with their scopes.
    pub fn iter(&self) -> impl Iterator<Item = (LimitScope, &Permit)> {
        let RequestPermits { key, per_model, team, further, small_output: _ } = self;
        let first = [(LimitScope::ModelPerKey, per_model), (LimitScope::Key, key), (LimitScope::Team, team)];
        let first = first.into_iter().filter_map(|(scope, permit)| Some((scope, permit.as_ref()?)));
        first.chain(further.iter().map(|(scope, permit)| (*scope, permit)))
    }

    /// These limits bind the call too.
    pub fn bound_output(&mut self, limits: &Limits) {
        self.small_output = least(self.small_output, small_output(limits));
    }

    fn each(&mut self, mut act: impl FnMut(&mut Permit)) {
        let RequestPermits { key, per_model, team, further, small_output: _ } = self;
        [key, per_model, team].into_iter().flatten().for_each(&mut act);
        further.iter_mut().for_each(|(_, permit)| act(permit));
    }
}

/// A call that may not go on.
pub struct Refused {
    pub error: Box<GatewayError>,
    /// All but its limits is decided; only this proxy's share of one of them is used up. See [`wait_for_share`].
    pub waiting: Option<Box<Admitted>>,
}

impl From<Box<GatewayError>> for Refused {
    fn from(error: Box<GatewayError>) -> Refused {
        Refused { error, waiting: None }
    }
}

/// Decides whether a call may go on.
///
/// # Errors
/// 400 for names that lead nowhere, 403 for models that key or team do not allow, 429 for limits.
pub fn admit(
    core: &Rc<Core>,
    caller: Caller,
    mut call: Box<Call>,
    now: Instant,
) -> std::result::Result<Admitted, Refused> {
    if let Some(told) = &caller.tables.told {
        let Call { headers, options, .. } = &mut *call;
        told.read(headers, options);
    }
    let asked = call.model().ok_or_else(|| Box::new(GatewayError::ModelMissing))?;
    let (route, model) = find_model(&caller, asked)?;
    let asked_output = call.head.output_cap(call.operation);
    let model = model.into();
    let mut fallbacks = Vec::new();
    for name in &call.fallbacks {
        fallbacks.push(find_model(&caller, name)?.0);
    }
    let permits = RequestPermits::default();
    let mut admitted = Admitted { route, model, asked_output, fallbacks, permits, small_output: None, caller, call };
    match take_limits(core, &admitted, now) {
        Ok(permits) => admitted.let_in(permits),
        Err(error) => {
            let waits = matches!(*error, GatewayError::RateLimited { of_share: true, .. });
            return Err(Refused { error, waiting: waits.then(|| Box::new(admitted)) });
        }
    }
    note(core, &admitted, now);
    Ok(admitted)
}

/// The key was used.
fn note(core: &Core, admitted: &Admitted, now: Instant) {
    if let Who::Key(_) = admitted.caller.who {
        admitted.caller.state(&core.shared.builder).usage.note(core.unix_ms(now) / 1000);
    }
}

/// Waits a moment for more of a limit of which only this proxy's share or lease is used up: the leader was told, or the
/// counter asked. Cancel-safe.
///
/// # Errors
/// 429: nothing more came.
pub async fn wait_for_share(core: &Rc<Core>, mut admitted: Box<Admitted>) -> Result<Admitted> {
    let hub = core.shared.builder.persistent.hub.clone();
    let until = tokio::time::Instant::now() + hub.as_ref().map_or(PATIENCE, |hub| hub.patience());
    loop {
        // Asked for before the limits, so that no change between is missed.
        let changed = hub.as_ref().map(|hub| hub.changed.notified());
        let now = Instant::now();
        match (take_limits(core, &admitted, now), changed) {
            (Ok(permits), _) => {
                admitted.let_in(permits);
                note(core, &admitted, now);
                return Ok(*admitted);
            }
            (Err(error), Some(changed)) if matches!(*error, GatewayError::RateLimited { of_share: true, .. }) => {
                if tokio::time::timeout_at(until, changed).await.is_err() {
                    return Err(error);
                }
            }
            (Err(error), _) => return Err(error),
        }
    }
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
    // A call that one limit refuses counts at none.
    take_each(core, admitted, now, &mut permits).inspect_err(|_| permits.each(Permit::refund))?;
    Ok(permits)
}

fn take_each(core: &Rc<Core>, admitted: &Admitted, now: Instant, permits: &mut RequestPermits) -> Result<()> {
    let Some(policy) = admitted.caller.policy() else { return Ok(()) };
    let seconds = core.uptime_seconds(now);
    let tokens = estimated_tokens(&admitted.call, admitted.asked_output);
    let state = admitted.caller.state(&core.shared.builder);
    let team = admitted.caller.team().zip(admitted.caller.team_entry());
    if !policy.limits.is_unlimited() {
        let value = || admitted.caller.key().map(|key| key.name.to_string()).unwrap_or_default();
        permits.bound_output(&policy.limits);
        permits.key = Some(take(&state.usage, &policy.limits, tokens, seconds, LimitScope::Key, value)?);
    }
    if let Some(index) = find_model_limits(&policy.per_model, &admitted.model) {
        let limits = &policy.per_model[index].1;
        let value = || admitted.model.to_string();
        permits.bound_output(limits);
        permits.per_model =
            Some(take(&state.per_model[index], limits, tokens, seconds, LimitScope::ModelPerKey, value)?);
    }
    if let Some((team, entry)) = team.filter(|(team, _)| !team.limits.is_unlimited()) {
        permits.bound_output(&team.limits);
        permits.team =
            Some(take(&entry.usage, &team.limits, tokens, seconds, LimitScope::Team, || team.name.to_string())?);
    }
    if !state.bound.is_empty() {
        let persistent = &core.shared.builder.persistent;
        rules::take_all(&state.bound, admitted, tokens, seconds, persistent, permits)?;
    }
    Ok(())
}

/// The less of two bounds.
pub fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// The limits for a model: those of its name, else those of the first pattern that it fits.
fn find_model_limits(per_model: &[(Name, Limits)], model: &str) -> Option<usize> {
    if per_model.is_empty() {
        return None;
    }
    let fits = |name: &Name| name.strip_suffix('*').is_some_and(|prefix| model.starts_with(prefix));
    let exact = per_model.iter().position(|(name, _)| **name == *model);
    exact.or_else(|| per_model.iter().position(|(name, _)| fits(name)))
}

/// Counts a call at one usage. `value`: who it is that has the limits, for the error.
pub fn take(
    usage: &std::sync::Arc<Usage>,
    limits: &Limits,
    tokens: Estimate,
    now: u64,
    scope: LimitScope,
    value: impl Fn() -> String,
) -> Result<Permit> {
    usage.take(limits, tokens, now).map_err(|reached| {
        let (limit_type, limit) = (reached.limit_type, reached.limit);
        let (remaining, resets_in, of_share) = (reached.remaining, reached.resets_in, reached.of_share);
        GatewayError::RateLimited { scope, value: value(), limit_type, limit, remaining, resets_in, of_share }.into()
    })
}

/// Tokens to reserve: about those of the input, and the output that was asked for. To count tokens uses none.
pub fn estimated_tokens(call: &Call, asked_output: Option<u64>) -> Estimate {
    let input = call.input_estimate;
    match call.operation {
        Operation::CountTokens => Estimate { input: 0, output: Some(0) },
        Operation::Embeddings => Estimate { input, output: Some(0) },
        Operation::Chat | Operation::Completions | Operation::Messages => {
            Estimate { input, output: asked_output.map(|asked| asked.saturating_mul(call.head.answers())) }
        }
    }
}
