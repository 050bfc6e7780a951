//! What an attempt may cost at most, and the money for it: reserved in all budgets of the call or in none, before
//! anything is sent. A hold is never shrunk without shrinking the request: where the client names no cap on its output
//! and a Hard budget binds the call, a cap is sent along. Of streams whose provider bills only what it sent, a slice is
//! held at first ([`crate::slice`]).

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate_dialects::Dialect;
use tollgate_dialects::head::Operation;
use tollgate_ledger::{Amounts, AttemptStart, Budget, LetThrough, MAX_BUDGETS, Refusal};
use tollgate_snapshot::model::{self, BudgetUnit, Route};
use tollgate_snapshot::money::{NanoUsd, Rate};
use tollgate_snapshot::price::{Bounds, CacheWrites, MostPaid, PriceSheet};

use crate::admit::{Admitted, least};
use crate::attempt::Attempting;
use crate::attribution::{self, Attribution};
use crate::booking::{Booking, InFlight};
use crate::core::Core;
use crate::error::{GatewayError, Rest, Result, Standing};
use crate::input;
use crate::limits::{self, Permit, Permits};
use crate::mentions::{self, Mentions};
use crate::outgoing::upstream_model;
use crate::parameters::Cap;
use crate::record::Record;
use crate::searching::Searching;
use crate::slice::{self, Slice};
use crate::surcharge::Surcharge;
use crate::tables::DeploymentEntry;
use crate::web_tools;

// Keys whose every call would be under more are not in the tables.
const _: () = assert!(MAX_BUDGETS == tollgate_snapshot::compile::MOST_OF_A_CALL);

/// Held of a call whose cost is not known, in nano-USD: nothing is held of calls that cost nothing, and they pass budgets
/// that are spent.
pub const UNKNOWN_COST: i64 = 1;

/// The budgets of a call; most have a few.
pub type Budgets = smallvec::SmallVec<[Arc<Budget>; 4]>;

/// What an attempt needs.
pub struct Terms {
    budgets: Budgets,
    amounts: Amounts,
    hard: bool,
    surcharge: Surcharge,
    searching: Searching,
    /// Of the amounts only so much is held at first.
    slice: Option<Box<Slice>>,
    /// Output tokens of all answers that the provider keeps to.
    most_output: u64,
}

/// What the provider is sent along with an attempt, so that it keeps to what is held.
#[derive(Debug, Default)]
pub struct Along {
    /// A cap on the output, because the client named none.
    pub inject_output: Option<u64>,
    /// Rates, where it passes calls on.
    pub most_paid: Option<Box<MostPaid>>,
}

/// The worst case of a call at a deployment. `deadline`: it has ended then.
///
/// # Errors
/// 403 when a Hard budget (or the gateway) wants a price and none is known, or when the call cannot be bounded; 429
/// when not even the smallest output fits.
pub fn terms(
    core: &Rc<Core>,
    admitted: &Admitted,
    route: &Route,
    deployment_index: u32,
    deadline: Instant,
) -> Result<(Terms, Along)> {
    let tables = &admitted.caller.tables;
    let snapshot = &tables.snapshot;
    let deployment = &snapshot.deployments[deployment_index as usize];
    let call = &admitted.call;
    let mut budgets = Budgets::new();
    let (mut hard, mut hard_usd, mut hard_tokens) = (false, false, false);
    let mut mentions = None;
    for index in admitted.caller.key().map(|key| &*key.budgets).unwrap_or_default() {
        let budget = tables.budget_kinds[*index as usize];
        if budget.scoped && !binds(&snapshot.budgets[*index as usize], &admitted.model, deployment) {
            continue;
        }
        if budget.by_call {
            let mentions = mentions.get_or_insert_with(|| Mentions::of(admitted));
            if !mentions.add(core, admitted, *index, deployment, &mut budgets)? {
                continue;
            }
        } else if budget.scoped {
            mentions::push(&mut budgets, tables.budget(*index, &core.shared.builder).clone());
        } else {
            budgets.push(tables.budget(*index, &core.shared.builder).clone());
        }
        hard |= budget.hard;
        hard_usd |= budget.hard && budget.unit == BudgetUnit::Usd;
        hard_tokens |= budget.hard && budget.unit == BudgetUnit::Tokens;
    }
    if budgets.len() > MAX_BUDGETS && mentions.is_some_and(|mentions| mentions.tags.len() > 1) {
        let message =
            format!("the call has so many tags that {} budgets apply, at most {MAX_BUDGETS} can", budgets.len());
        return Err(GatewayError::BadRequest { param: "tags".to_owned(), message }.into());
    }
    let entry = &tables.deployments[deployment_index as usize];
    let effects = &entry.effects;
    let requests = Amounts { nano_usd: 0, tokens: 0, requests: 1 };
    if call.operation == Operation::CountTokens {
        // Counting costs nothing at any provider.
        let budgets = Budgets::new();
        let terms = Terms {
            budgets,
            amounts: requests,
            hard: false,
            surcharge: Surcharge::default(),
            searching: Searching::default(),
            slice: None,
            most_output: 0,
        };
        return Ok((terms, Along::default()));
    }
    check_fields(admitted, deployment, entry, hard_usd)?;
    let upstream_model = || upstream_model(route, deployment, &admitted.model);
    let counts_tokens = hard_usd || hard_tokens;
    if counts_tokens && entry.unbounded.has(upstream_model) {
        let reason = format!("`{}` searches and reads as much as it likes", upstream_model());
        return Err(GatewayError::CostUnbounded { reason }.into());
    }
    let unpriced = || GatewayError::PriceUnknown { model: admitted.model.to_string() };
    let needs_price = hard_usd || snapshot.gateway.deny_unpriced;
    let price = deployment.price.as_deref();
    if price.is_none() && needs_price {
        return Err(unpriced().into());
    }
    let turns = if counts_tokens { turns(call, entry, upstream_model) } else { 0 };
    let input_tokens = match input::bound(call, deployment, turns) {
        Ok(bound) => bound.saturating_add(effects.bytes),
        Err(error) if counts_tokens => return Err(error),
        Err(_) => call.body.len() as u64,
    };
    let modalities = &call.head.modalities;
    let surcharge = Surcharge::of(call, deployment);
    let web_searches = call.searches(effects.web_search).max(always_searches(call, deployment).into());
    let searching = Searching::of(call, deployment, web_searches);
    let bounds = Bounds {
        input_tokens,
        choices: effects.answers(call),
        web_searches,
        audio: modalities.audio > 0 || effects.media,
        images: modalities.images > 0 || effects.media,
        audio_output: modalities.audio > 0 || call.head.asks_for_media || effects.media,
        cache_writes: cache_writes(call, deployment),
        requested_service_tier: effects.service_tier(call.service_tier.as_deref()),
        region: surcharge.region(),
        speed: surcharge.speed(),
        ..Bounds::default()
    };
    let has_output = call.operation != Operation::Embeddings;
    let may_slice = hard && slice::shows_all(call, deployment) && {
        let now = Instant::now();
        let now_ms = core.unix_ms(now);
        let until_ms = now_ms.saturating_add(deadline.saturating_duration_since(now).as_millis() as i64);
        budgets.iter().all(|budget| budget.lasts(now_ms, until_ms))
    };
    let speed = || entry.state.speed.get();
    let patience = Duration::from_millis(snapshot.gateway.reserved_wait_ms);
    let mut inject_output = None;
    let cap = effects.cap(admitted.asked_output);
    let is_told = matches!(cap, Cap::Known(_) | Cap::Ours(_));
    let output_tokens = match cap {
        _ if !has_output => 0,
        Cap::Known(cap) => cap,
        Cap::Ours(cap) => {
            inject_output = Some(cap);
            cap
        }
        Cap::Dropped => match deployment.max_output_tokens {
            Some(most) => most,
            None if hard_usd || hard_tokens => {
                let reason = "the deployment's parameters take the cap on its output away".to_owned();
                return Err(GatewayError::CostUnbounded { reason }.into());
            }
            None => admitted.asked_output.unwrap_or(snapshot.gateway.max_output_tokens),
        },
        Cap::Missing => {
            let key_cap = admitted.caller.policy().and_then(|policy| policy.max_output_tokens);
            let caps = [deployment.max_output_tokens, key_cap, Some(snapshot.gateway.max_output_tokens)];
            let cap = caps.into_iter().flatten().min().unwrap_or(snapshot.gateway.max_output_tokens);
            let small = small_output(admitted, deployment).map(|small| {
                let each = small / bounds.choices.max(1);
                each.max(snapshot.gateway.min_output_tokens).min(cap)
            });
            let cap = small.unwrap_or(cap);
            if hard_usd || hard_tokens {
                let share = affordable(core, &budgets, price, &bounds, cap);
                // What is held in slices keeps nothing from others.
                let cap = match may_slice && share >= slice::first(speed(), patience) {
                    true => cap,
                    false => share.max(snapshot.gateway.min_output_tokens.min(cap)),
                };
                inject_output = Some(cap);
                cap
            } else {
                inject_output = small;
                cap
            }
        }
    };
    // What was predicted and not said costs like what is said.
    let prediction = call.head.prediction.map_or(0, |prediction| prediction.value.len() as u64);
    let output_tokens = output_tokens.saturating_add(if has_output { prediction } else { 0 });
    let kept = if is_told { Some(output_tokens) } else { inject_output.or(deployment.max_output_tokens) };
    let most_output = if has_output { kept.map_or(u64::MAX, |kept| kept.saturating_mul(bounds.choices)) } else { 0 };
    let bounds = Bounds { output_tokens, ..bounds };
    // A sheet that lacks a rate for something that may be used is as good as none.
    let nano_usd = match price.and_then(|price| price.worst_case(&bounds)) {
        // The provider may say something else.
        Some(NanoUsd(0)) if entry.trusts_reported_cost => UNKNOWN_COST,
        Some(NanoUsd(worst)) => worst,
        None if needs_price => return Err(unpriced().into()),
        None => {
            core.bank.own.unpriced.add(1);
            UNKNOWN_COST
        }
    };
    let tokens = input_tokens.saturating_add(output_tokens.saturating_mul(bounds.choices)).min(i64::MAX as u64);
    let amounts = Amounts { nano_usd, tokens: tokens as i64, requests: 1 };
    let slice = may_slice.then(|| {
        let without_output = Bounds { output_tokens: 0, ..bounds };
        let input = Amounts {
            nano_usd: price
                .and_then(|price| price.worst_case(&without_output))
                .map_or(0, |worst| worst.0)
                .max(nano_usd.min(UNKNOWN_COST)),
            tokens: input_tokens.min(i64::MAX as u64) as i64,
            requests: 1,
        };
        let rate = price.and_then(|price| price.output_rate_bound(&bounds)).unwrap_or(Rate::ZERO);
        let mut slice = Slice::first(input, amounts, rate, output_tokens, bounds.choices, speed(), patience)?;
        slice.namespace = namespace(admitted).cloned();
        Some(slice)
    });
    let slice = slice.flatten().map(Box::new);
    let most_paid = price.filter(|_| hard_usd && entry.price_cap.is_some());
    let most_paid = most_paid.map(|price| Box::new(price.most_paid(&bounds)));
    let terms = Terms { budgets, amounts, hard, surcharge, searching, slice, most_output };
    Ok((terms, Along { inject_output, most_paid }))
}

/// Fields that only this provider understands, and that make another call of it than the one that was allowed and priced.
/// Most providers have none.
fn check_fields(
    admitted: &Admitted,
    deployment: &model::Deployment,
    entry: &DeploymentEntry,
    hard_usd: bool,
) -> Result<()> {
    let Admitted { call, caller, .. } = admitted;
    // What the deployment's own parameters say is what its owner wants.
    let ours = &deployment.parameters;
    let is_clients = |name: &str| {
        let name = name.split('.').next().unwrap_or(name);
        let is_dropped = ours.drop.iter().any(|dropped| **dropped == *name);
        !is_dropped && ours.forced.iter().all(|(forced, _)| **forced != *name)
    };
    let written = |names: &'static [&'static str]| names.iter().find(|name| is_clients(name) && call.has_field(name));
    if !entry.model_fields.is_empty()
        && caller.is_restricted()
        && let Some(field) = written(entry.model_fields)
    {
        return Err(GatewayError::ParameterRefused { param: (*field).to_owned() }.into());
    }
    if hard_usd && let Some(field) = written(entry.dear_fields) {
        let reason = format!("`{field}` can make it dearer than its model's price");
        return Err(GatewayError::CostUnbounded { reason }.into());
    }
    Ok(())
}

/// How often the model may read its context again, for what it found in the web.
fn turns<'m>(call: &crate::call::Call, entry: &DeploymentEntry, model: impl FnOnce() -> Cow<'m, str>) -> u64 {
    let mut turns = entry.effects.web_turns;
    if call.head.reads_web {
        turns = turns.max(web_tools::turns(call.head.tools.map(|tools| tools.of(&call.body)).unwrap_or_default()));
    }
    // One search of each call.
    turns.saturating_add(entry.reads.has(model).into())
}

/// Whether the call searches the web although it does not say so.
fn always_searches(call: &crate::call::Call, deployment: &model::Deployment) -> bool {
    deployment.always_searches
        && matches!(call.operation, Operation::Chat | Operation::Completions | Operation::Messages)
}

/// Whether a budget counts calls like this one.
pub fn binds(budget: &model::Budget, model: &str, deployment: &model::Deployment) -> bool {
    budget.models.as_ref().is_none_or(|models| models.contains(model))
        && (budget.providers.is_empty() || budget.providers.contains(&deployment.provider))
}

/// Which cache writes a call can cause: an hour's only where it says so, and only Anthropic's API has such words.
fn cache_writes(call: &crate::call::Call, deployment: &model::Deployment) -> CacheWrites {
    let hour = deployment.dialect == Dialect::Anthropic && memchr::memmem::find(&call.body, b"\"1h\"").is_some();
    if hour { CacheWrites::OneHour } else { CacheWrites::FiveMinutes }
}

/// The output that what is left allows: a quarter of each call's share, so that the first of many agents does not
/// reserve everything.
fn affordable(
    core: &Rc<Core>,
    budgets: &[Arc<Budget>],
    price: Option<&PriceSheet>,
    bounds: &Bounds<'_>,
    cap: u64,
) -> u64 {
    let calls = core.in_flight.get().max(1) as i64 * core.shared.settings.cores.max(1) as i64;
    let rate = price.and_then(|price| price.output_rate_bound(bounds)).filter(|rate| rate.0 > 0);
    let mut affordable = cap;
    for budget in budgets {
        let Some(left) = budget.hard_left() else { continue };
        let share = left.max(0) / (4 * calls);
        let tokens = match budget.unit() {
            tollgate_ledger::Unit::NanoUsd => match rate {
                Some(rate) => rate.units_for(NanoUsd(share)),
                None => continue,
            },
            tollgate_ledger::Unit::Tokens => share as u64,
            tollgate_ledger::Unit::Requests => continue,
        };
        affordable = affordable.min(tokens / bounds.choices.max(1));
    }
    affordable
}

/// The cap that limits of rates want, which let a call in that may make more than all of them at once.
fn small_output(admitted: &Admitted, deployment: &model::Deployment) -> Option<u64> {
    let of_account = deployment.account.as_ref().and_then(|account| limits::small_output(&account.limits));
    let of_upstream = least(limits::small_output(&deployment.limits), of_account);
    least(admitted.small_output, of_upstream)
}

/// An attempt that wants its money.
pub struct Wanted<'a> {
    core: &'a Rc<Core>,
    admitted: &'a Admitted,
    deployment_index: u32,
    terms: Terms,
    permits: Permits,
    /// `None` once it is in a booking.
    in_flight: Option<InFlight>,
    start: AttemptStart,
    started: Instant,
}

impl<'a> Wanted<'a> {
    pub fn new(
        attempting: &Attempting<'a>,
        deployment_index: u32,
        terms: Terms,
        permits: Permits,
        in_flight: InFlight,
        record: &Record,
    ) -> Wanted<'a> {
        let Attempting { core, admitted, begins: started, .. } = *attempting;
        let tables = &admitted.caller.tables;
        let entry = &tables.deployments[deployment_index as usize];
        let state = admitted.caller.state(&core.shared.builder);
        let Attribution { model, served_model, tags, end_user, end_user_name } =
            attribution::of(core, admitted, deployment_index);
        let start = AttemptStart {
            attempt_id: record.id ^ u128::from(record.attempts),
            started_at_ms: core.unix_ms(started),
            key: state.name_id,
            team: admitted.caller.team_entry().map(|team| team.name_id).unwrap_or_default(),
            user: state.user_id,
            end_user,
            end_user_name,
            tags,
            model,
            served_model,
            deployment: entry.name_id,
            provider: entry.provider_id,
            namespace: state.namespace_id,
            attempt_no: record.attempts.min(255) as u8,
            price_version: entry.price_version,
            hold: terms.amounts,
        };
        Wanted { core, admitted, deployment_index, terms, permits, in_flight: Some(in_flight), start, started }
    }

    /// Reserves, where nothing has to be waited for.
    ///
    /// # Errors
    /// Why not; nothing is held then.
    pub fn try_now(&mut self, let_through: &mut LetThrough) -> std::result::Result<Box<Booking>, Refusal> {
        let Wanted { core, admitted, deployment_index, terms, permits, in_flight, start, started } = self;
        let held = terms.slice.as_ref().map_or(terms.amounts, |slice| slice.held());
        let hold = core.writer.borrow_mut().try_hold_part(start, held, &terms.budgets, let_through)?;
        let tables = &admitted.caller.tables;
        let deployment = &tables.snapshot.deployments[*deployment_index as usize];
        let entry = &tables.deployments[*deployment_index as usize];
        Ok(Box::new(Booking {
            core: core.clone(),
            hold: Some(hold),
            held,
            slice: terms.slice.take(),
            price: deployment.price.clone(),
            hard: terms.hard,
            cancel_stops_billing: deployment.cancel_stops_billing,
            deployment: entry.id.clone(),
            deployment_index: *deployment_index,
            permits: std::mem::take(permits),
            in_flight: in_flight.take(),
            requested_service_tier: entry.effects.service_tier(admitted.call.service_tier.as_deref()).map(Box::from),
            surcharge: terms.surcharge,
            searching: terms.searching,
            cited: false,
            trusts_reported_cost: entry.trusts_reported_cost,
            started: *started,
            started_unix_ms: start.started_at_ms,
            first_byte: None,
            ended: None,
            input_estimate: admitted.call.input_estimate,
            most_output: terms.most_output,
            ignore_cached: tables.snapshot.gateway.ignore_cached_tokens,
        }))
    }

    /// Reserves after a refusal. Waits a moment for money that calls in flight hold.
    ///
    /// # Errors
    /// 429 for what is spent or reserved, 503 when the ledger cannot promise anything. Nothing is held then.
    pub async fn wait(mut self, mut refusal: Refusal, let_through: &mut LetThrough) -> Result<Box<Booking>> {
        let gateway = &self.admitted.caller.tables.snapshot.gateway;
        let patience = self.started + Duration::from_millis(gateway.reserved_wait_ms);
        let error = loop {
            match refusal {
                // The grant is on its way to the disk; a moment.
                Refusal::Pending(grant) => grant.wait().await,
                Refusal::Reserved { budget, held, limit } => {
                    if tokio::time::timeout_at(patience.into(), budget.wait_for_release()).await.is_err() {
                        let standing = standing(&budget, self.namespace(), [budget.spent(), held, limit]);
                        break GatewayError::BudgetReserved { budget: budget.id().to_owned(), standing };
                    }
                }
                // Nothing that comes free would be enough for a slice of this size. A smaller one may do.
                Refusal::Exhausted { .. } if self.terms.slice.as_mut().is_some_and(|slice| slice.shrink()) => {}
                Refusal::Exhausted { budget, spent, limit, asked, resets_at } => {
                    let left = limit.saturating_sub(spent);
                    let standing = standing(&budget, self.namespace(), [spent, 0, limit]);
                    break GatewayError::BudgetExhausted {
                        rest: if is_denied(self.admitted, budget.id()) {
                            Rest::Denied
                        } else if left > 0 {
                            let shown = standing.is_some().then(|| amount(&budget, left));
                            Rest::TooLittle { asked: amount(&budget, asked), left: shown }
                        } else {
                            Rest::Nothing
                        },
                        standing,
                        budget: budget.id().to_owned(),
                        resets_at,
                        status: gateway.budget_exceeded_status,
                    };
                }
                Refusal::Throttled { budget, spent, limit, retry_after_ms } => {
                    break GatewayError::BudgetThrottled {
                        standing: standing(&budget, self.namespace(), [spent, 0, limit]),
                        budget: budget.id().to_owned(),
                        retry_after: u64::try_from(retry_after_ms.max(1)).unwrap_or(1).div_ceil(1000),
                    };
                }
                Refusal::Unavailable { reason } => {
                    tracing::error!(%reason, "the ledger cannot hold money: {reason}");
                    break GatewayError::BudgetUnavailable { budget: "ledger".to_owned() };
                }
            }
            match self.try_now(let_through) {
                Ok(booking) => return Ok(booking),
                Err(again) => refusal = again,
            }
        };
        self.permits.iter_mut().for_each(Permit::refund);
        Err(error.into())
    }
}

impl Wanted<'_> {
    /// Of the key.
    fn namespace(&self) -> Option<&str> {
        namespace(self.admitted).map(|name| &**name)
    }
}

fn namespace(admitted: &Admitted) -> Option<&model::Name> {
    let namespace = admitted.caller.namespace()?;
    Some(&admitted.caller.tables.snapshot.namespaces[namespace as usize].name)
}

/// How a budget stands, for a client with a key of this namespace. `None`: it counts what others spend.
pub fn standing(budget: &Budget, namespace: Option<&str>, [spent, held, limit]: [i64; 3]) -> Option<Standing> {
    let is_told = namespace.is_some_and(|namespace| is_for(budget.id(), namespace));
    let text = |units| amount(budget, units);
    is_told.then(|| Standing { spent: text(spent), held: text(held), limit: text(limit) })
}

/// Whether a budget is of a namespace, or counts nothing but its calls: `namespace/kind/name`, and the member it is for,
/// which is this namespace or something in it.
fn is_for(id: &str, namespace: &str) -> bool {
    let mut parts = id.splitn(4, '/');
    if parts.next() == Some(namespace) {
        return true;
    }
    let member = parts.nth(2).and_then(|member| member.strip_prefix(namespace));
    member.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether nothing may be spent under a budget of this call because of how it is written.
fn is_denied(admitted: &Admitted, id: &str) -> bool {
    let budgets = &admitted.caller.tables.snapshot.budgets;
    let mut rows = admitted.caller.key().into_iter().flat_map(|key| &*key.budgets).map(|row| &budgets[*row as usize]);
    rows.any(|row| {
        let is_it = id.strip_prefix(&*row.id).is_some_and(|member| member.is_empty() || member.starts_with('/'));
        is_it && row.denied
    })
}

/// An amount of a budget, for people.
pub fn amount(budget: &Budget, units: i64) -> String {
    match budget.unit() {
        tollgate_ledger::Unit::NanoUsd => NanoUsd(units).to_string(),
        tollgate_ledger::Unit::Tokens => format!("{units} tokens"),
        tollgate_ledger::Unit::Requests => format!("{units} requests"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_budget_stands_is_for_those_whose_spend_it_counts() {
        for (id, is_told) in [
            ("t2/VirtualKey/b", true),
            ("t2/Team/t/alice", true),
            ("t2/Budget/all/x/y", true),
            ("platform/Budget/tenants/t2", true),
            ("platform/Budget/keys/t2/b", true),
            ("platform/Budget/tenants/t1", false),
            ("platform/Budget/keys/t1/t2", false),
            ("platform/Budget/keys/t22/b", false),
            ("platform/Budget/t2", false),
            ("platform/Team/t2", false),
            ("t22/VirtualKey/b", false),
        ] {
            assert_eq!(is_for(id, "t2"), is_told, "{id}");
        }
    }
}
