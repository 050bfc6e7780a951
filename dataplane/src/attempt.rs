//! The only retry loop: plan, hold, dispatch, judge, and again or elsewhere. Every attempt has its own hold and its own
//! row; at most `maxAttempts` over retries and fallbacks, and none after the first byte went to the client.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tollgate_dialects::head::Operation;
use tollgate_snapshot::model::{Deployment, ErrorClass, Route, Timeouts};

use crate::admit::{Admitted, estimated_tokens};
use crate::booking::{Booking, InFlight};
use crate::condition::CallFacts;
use crate::core::{Core, Entry};
use crate::detach::Client;
use crate::dispatch::{self, Judged};
use crate::error::{GatewayError, UpstreamFailure};
use crate::hold;
use crate::limits::{Reached, Spent};
use crate::metrics::AttemptLabels;
use crate::outgoing::{self, Mode};
use crate::plan::{self, Choice, Pick, Picked};
use crate::record::Record;
use crate::reply::Reply;
use crate::tables::DeploymentEntry;

/// A call that came to nothing.
pub struct Failed {
    pub error: Box<GatewayError>,
    pub record: Record,
}

/// How deep fallbacks of fallbacks are followed (LiteLLM's ROUTER_MAX_FALLBACKS).
const MAX_FALLBACKS: u32 = 5;

/// Where nothing says otherwise. LiteLLM waits 6,000 s; ten minutes is what SDKs wait.
const DEFAULT_TOTAL: Duration = Duration::from_secs(600);
const DEFAULT_CONNECT: Duration = Duration::from_secs(5);
/// A silent stream is dead after this; models that think longer than that send pings.
const DEFAULT_IDLE: Duration = Duration::from_secs(300);

/// Times of one attempt, all settings considered.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub connect: Duration,
    pub first_byte: Option<Duration>,
    pub idle: Duration,
    pub deadline: Instant,
    /// What `x-litellm-timeout` shows.
    pub total: Duration,
}

/// Everything an attempt needs to know besides its deployment.
pub struct Attempting<'a> {
    pub core: &'a Rc<Core>,
    pub admitted: &'a Admitted,
    pub route: &'a Route,
    pub begins: Instant,
    pub clock: Clock,
    /// Another deployment or a fallback could serve in the place of this one.
    pub alone: bool,
    pub fell_back: bool,
    pub max_retries: u32,
}

impl<'a> Attempting<'a> {
    /// The deployment that a booking is for.
    pub fn deployment(&self, booking: &Booking) -> &'a Deployment {
        &self.admitted.caller.tables.snapshot.deployments[booking.deployment_index as usize]
    }

    pub fn entry(&self, booking: &Booking) -> &'a DeploymentEntry {
        &self.admitted.caller.tables.deployments[booking.deployment_index as usize]
    }
}

/// Why an attempt failed, and what that allows.
pub struct Failure {
    pub error: Box<GatewayError>,
    /// `None`: nothing else is tried.
    pub class: Option<ErrorClass>,
    /// Trying the same deployment again changes nothing.
    pub final_here: bool,
    pub retry_after_ms: Option<u64>,
}

/// Serves an admitted call.
///
/// # Errors
/// The last attempt's error, or why there was none.
pub async fn run(
    core: Rc<Core>,
    entry: Entry,
    mut admitted: Admitted,
    mut record: Record,
    client: Rc<Client>,
) -> Result<Reply, Box<Failed>> {
    if admitted.call.operation == Operation::CountTokens {
        match crate::count_tokens::locally(&core, &admitted, &record) {
            Ok(Some(response)) => return Ok(response.into()),
            Ok(None) => {}
            Err(error) => return Err(Box::new(Failed { error, record })),
        }
    }
    let tables = admitted.caller.tables.clone();
    let gateway = &tables.snapshot.gateway;
    let mut routes: smallvec::SmallVec<[u32; 4]> = smallvec::SmallVec::new();
    if tables.has_low_models {
        routes = crate::low::preferred(&core, &admitted);
    }
    // Those before what was asked for: cheaper, and not worth a refusal.
    let preferred = routes.len();
    routes.push(admitted.route);
    let mut position = 0;
    let mut last_error: Option<Box<GatewayError>> = None;
    let mut entry = Some(entry);
    client.hold(std::mem::take(&mut admitted.permits));
    let facts = CallFacts::of(&admitted);
    while position < routes.len() {
        let route_index = routes[position];
        let route = &tables.snapshot.routes[route_index as usize];
        let fell_back = route_index != admitted.route;
        let max_retries = match position < preferred {
            // What was asked for must get its turn.
            true => 0,
            false => admitted.call.options.num_retries.unwrap_or(route.retries.attempts),
        };
        let mut refused = Vec::new();
        let mut tried = Vec::new();
        let mut class = None;
        let mut tries = 0;
        loop {
            if record.attempts >= gateway.max_attempts || (client.is_gone() && record.attempts > 0) {
                break;
            }
            let now = Instant::now();
            let operation = admitted.call.operation;
            let targets = &*tables.routes[route_index as usize].targets;
            let takes = |index: usize| targets[index].serves(operation) && facts.admit(&targets[index]);
            let mut choice = Choice {
                tables: &tables,
                route,
                targets,
                eligible: &takes,
                refused: &refused,
                tried: &tried,
                tokens: estimated_tokens(&admitted.call, admitted.asked_output),
                class: tables.class_of(admitted.caller.key()),
                uptime_ms: core.uptime_ms(now),
                waits: core.shared.builder.persistent.has_leases(),
            };
            let pick = match fastrand_with(|random| plan::pick(&choice, random)) {
                // Boxed: few calls wait for a lease.
                Pick::Waiting => Box::pin(pick_with_lease(&core, &mut choice)).await,
                pick => pick,
            };
            let picked = match pick {
                Pick::Deployment(picked) => picked,
                nothing => {
                    let error = nothing_to_pick(nothing, &tables, &admitted, route);
                    // A provider's own words tell more than that nobody is left to ask.
                    if class.is_none() || last_error.is_none() {
                        class = Some(ErrorClass::RateLimit).filter(|_| error.facts().status == 429);
                        last_error = Some(error);
                    }
                    break;
                }
            };
            let deployment = picked.deployment;
            record.attempts += 1;
            record.deployment = tables.deployments[deployment as usize].label;
            let others = route
                .targets
                .iter()
                .enumerate()
                .filter(|(index, target)| target.deployment != deployment && takes(*index));
            let alone = others.count() == 0
                && route.fallbacks.is_empty()
                && admitted.fallbacks.is_empty()
                && position >= preferred;
            let clock = clock(
                &admitted,
                route,
                &tables.snapshot.deployments[deployment as usize].timeouts,
                gateway.timeouts,
                &record,
            );
            let attempting = Attempting {
                core: &core,
                admitted: &admitted,
                route,
                begins: now,
                clock,
                alone,
                fell_back,
                max_retries,
            };
            match one(&attempting, picked, &mut record, &client).await {
                Ok(judged) => {
                    let entry = entry.take().expect("a call is answered once");
                    return Ok(judged.answer(&attempting, client.take_permits(), record, entry));
                }
                Err(failure) => {
                    let Failure { error, class: failed_class, final_here, retry_after_ms } = failure;
                    let elsewhere = matches!(error.facts().status, 401..=404);
                    last_error = Some(error);
                    class = failed_class;
                    let Some(failed_class) = failed_class else { break };
                    if final_here {
                        refused.push(deployment);
                    }
                    tried.push(deployment);
                    let wants_fallback = matches!(failed_class, ErrorClass::ContextWindow | ErrorClass::ContentPolicy)
                        && !plan::fallbacks(route, failed_class).is_empty();
                    if wants_fallback || tries >= max_retries {
                        break;
                    }
                    let another = route.targets.iter().enumerate().any(|(index, target)| {
                        let state = &tables.deployments[target.deployment as usize].state;
                        target.deployment != deployment
                            && !refused.contains(&target.deployment)
                            && takes(index)
                            && state.health.benched_for(core.uptime_ms(Instant::now())).is_none()
                    });
                    // What the client got wrong is wrong everywhere; a credential or a missing model only here (RT-42).
                    let may_retry =
                        if final_here { another && elsewhere } else { plan::may_retry(&route.retries, failed_class) };
                    if !may_retry {
                        break;
                    }
                    // Rate limited, nobody else here, but a fallback: no waiting (RT-42).
                    if failed_class == ErrorClass::RateLimit
                        && !another
                        && !plan::fallbacks(route, failed_class).is_empty()
                    {
                        break;
                    }
                    let wait = fastrand_with(|random| {
                        plan::backoff_ms(&route.retries, tries, another, retry_after_ms, random)
                    });
                    if wait > 0 {
                        let wait = Duration::from_millis(wait);
                        if Instant::now() + wait >= clock.deadline {
                            break;
                        }
                        tokio::time::sleep(wait).await;
                    }
                    tries += 1;
                    record.retries += 1;
                }
            }
        }
        if let Some(class) = class
            && record.fallbacks < MAX_FALLBACKS
            && position >= preferred
        {
            let next = if admitted.fallbacks.is_empty() { plan::fallbacks(route, class) } else { &admitted.fallbacks };
            let new: Vec<u32> = next.iter().copied().filter(|route| !routes.contains(route)).collect();
            routes.extend(new);
        }
        position += 1;
        if position < routes.len() {
            // Who waited for money once need not wait again for what costs more.
            let waited = matches!(last_error.as_deref(), Some(GatewayError::BudgetReserved { .. }));
            let ends = class.is_none() && (position > preferred || waited || client.is_gone());
            if record.attempts >= gateway.max_attempts || record.fallbacks >= MAX_FALLBACKS || ends {
                break;
            }
            record.fallbacks += 1;
        }
    }
    client.take_permits().settle(Some(Spent::default()));
    let error = last_error.unwrap_or_else(|| Box::new(GatewayError::Internal { reason: "no attempt was made" }));
    Err(Box::new(Failed { error: with_attempts(error, record.attempts), record }))
}

/// Chooses again whenever leases of limits changed; after a while whichever deployment has something left.
async fn pick_with_lease(core: &Core, choice: &mut Choice<'_>) -> Pick {
    let Some(hub) = &core.shared.builder.persistent.hub else { return Pick::None };
    let until = tokio::time::Instant::now() + hub.patience();
    loop {
        // Asked for before the limits, so that no change between is missed.
        let changed = hub.changed.notified();
        match fastrand_with(|random| plan::pick(choice, random)) {
            Pick::Waiting => choice.waits = tokio::time::timeout_at(until, changed).await.is_ok(),
            pick => return pick,
        }
    }
}

/// One attempt: hold, build, send, judge.
pub async fn one<'a>(
    attempting: &Attempting<'a>,
    picked: Picked,
    record: &mut Record,
    client: &Client,
) -> Result<Judged, Failure> {
    let Attempting { core, admitted, route, .. } = attempting;
    let tables = &admitted.caller.tables;
    let deployment = &tables.snapshot.deployments[picked.deployment as usize];
    let entry = &tables.deployments[picked.deployment as usize];
    let mut permits = picked.permits;
    let refund = |permits: &mut crate::limits::Permits| permits.iter_mut().for_each(crate::limits::Permit::refund);
    let (terms, along) = match hold::terms(core, admitted, route, picked.deployment, attempting.clock.deadline) {
        Ok(terms) => terms,
        Err(error) => {
            refund(&mut permits);
            return Err(Failure::of_ours(error));
        }
    };
    let in_flight = InFlight::new(&entry.state);
    let outgoing = match outgoing::build(admitted, route, deployment, entry, along) {
        Ok(outgoing) => outgoing,
        Err(error) => {
            refund(&mut permits);
            return Err(Failure::of_ours(error));
        }
    };
    let mut wanted = hold::Wanted::new(attempting, picked.deployment, terms, permits, in_flight, record);
    let held = match wanted.try_now(&mut record.let_through) {
        Ok(booking) => Ok(booking),
        // Boxed: nearly no call waits for money.
        Err(refusal) => Box::pin(wanted.wait(refusal, &mut record.let_through)).await,
    };
    let mut booking = match held {
        Ok(booking) => booking,
        Err(error) => return Err(Failure::of_ours(error)),
    };
    if client.is_gone() {
        // It left while its money was waited for: nobody would read the answer.
        booking.release(0);
        return Err(Failure::of_ours(Box::new(GatewayError::Internal {
            reason: "the client left before it was served",
        })));
    }
    let model = tables.routes[admitted.route as usize].label;
    let judged = dispatch::send(attempting, outgoing, booking, record).await;
    let (outcome, status) = match &judged {
        Ok(_) => ("success", 200),
        Err(failure) => (failure.outcome(), failure.error.facts().status),
    };
    core.bank.attempt(AttemptLabels { model, deployment: entry.label, outcome, status });
    match &judged {
        Ok(_) => entry.state.health.succeeded(),
        Err(failure) => bench(attempting, picked.deployment, failure),
    }
    judged
}

/// Takes note of a failure; repeated ones bench the deployment.
fn bench(attempting: &Attempting<'_>, deployment: u32, failure: &Failure) {
    let Attempting { core, route, admitted, alone, .. } = attempting;
    let entry = &admitted.caller.tables.deployments[deployment as usize];
    let at_once = match failure.class {
        Some(ErrorClass::RateLimit | ErrorClass::Authentication) => true,
        Some(ErrorClass::Timeout | ErrorClass::ServerError | ErrorClass::Connect) => false,
        Some(ErrorClass::Any) if failure.error.facts().status == 404 => true,
        _ => return,
    };
    // Benching the only one that can serve would turn some failures into all (OBS-3).
    if *alone && !route.cooldown.even_alone {
        return;
    }
    let now = core.uptime_ms(Instant::now());
    if entry.state.health.failed(&route.cooldown, at_once, *alone, failure.retry_after_ms, now) {
        let seconds = entry.state.health.benched_for(now).unwrap_or_default() as f64 / 1000.0;
        tracing::warn!(deployment = %entry.id, "deployment `{}` is benched for {seconds} s: {}", entry.id, failure.outcome());
        core.shared.registry.cooled_down(entry.label);
    }
}

impl Failure {
    /// An error of ours, before anything was sent: nothing else is tried.
    fn of_ours(error: Box<GatewayError>) -> Failure {
        Failure { error, class: None, final_here: true, retry_after_ms: None }
    }

    /// A word for metrics.
    fn outcome(&self) -> &'static str {
        match self.class {
            None => "refused",
            Some(ErrorClass::Any) => "rejected",
            Some(ErrorClass::RateLimit) => "rate_limit",
            Some(ErrorClass::Timeout) => "timeout",
            Some(ErrorClass::ServerError) => "server_error",
            Some(ErrorClass::Connect) => "connect",
            Some(ErrorClass::Authentication) => "authentication",
            Some(ErrorClass::ContextWindow) => "context_window",
            Some(ErrorClass::ContentPolicy) => "content_policy",
        }
    }
}

fn nothing_to_pick(
    pick: Pick,
    tables: &crate::tables::Tables,
    admitted: &Admitted,
    route: &Route,
) -> Box<GatewayError> {
    let model = admitted.model.to_string();
    Box::new(match pick {
        Pick::AllBenched { deployments, retry_after_ms } => GatewayError::AllCoolingDown {
            model,
            deployments: deployments.iter().map(|index| tables.deployments[*index as usize].id.to_string()).collect(),
            retry_after: retry_after_ms.div_ceil(1000),
        },
        Pick::AllFull(Reached { limit_type, resets_in, .. }) => {
            GatewayError::DeploymentsFull { model, limit_type, resets_in }
        }
        Pick::Deployment(_) | Pick::Waiting | Pick::None => {
            let operation = admitted.call.operation;
            let understood = route
                .targets
                .iter()
                .any(|target| Mode::of(operation, &tables.snapshot.deployments[target.deployment as usize]).is_some());
            if understood {
                GatewayError::NoTarget { model }
            } else {
                let operation = match operation {
                    Operation::Embeddings => "embeddings",
                    Operation::Completions => "text completions",
                    Operation::Chat => "chat completions",
                    Operation::Messages => "messages",
                    Operation::CountTokens => "counting tokens",
                };
                GatewayError::OperationUnsupported { model, operation }
            }
        }
    })
}

fn with_attempts(mut error: Box<GatewayError>, all: u32) -> Box<GatewayError> {
    match &mut *error {
        GatewayError::Upstream(failure) => {
            let UpstreamFailure { attempts, .. } = &mut **failure;
            *attempts = all;
        }
        GatewayError::UpstreamConnect { attempts, .. }
        | GatewayError::UpstreamTimeout { attempts, .. }
        | GatewayError::UpstreamBroken { attempts, .. } => *attempts = all,
        _ => {}
    }
    error
}

/// The client's timeout, else the deployment's, the route's, the gateway's, ours.
fn clock(admitted: &Admitted, route: &Route, deployment: &Timeouts, gateway: Timeouts, record: &Record) -> Clock {
    let stream = admitted.call.stream;
    let options = &admitted.call.options;
    let settings = deployment.or(route.timeouts).or(gateway);
    let asked = if stream { options.stream_timeout.or(options.timeout) } else { options.timeout };
    let total = asked.or(settings.total_ms.map(Duration::from_millis)).unwrap_or(DEFAULT_TOTAL);
    let first_byte = settings.first_byte_ms.map(Duration::from_millis).filter(|_| stream);
    Clock {
        connect: settings.connect_ms.map_or(DEFAULT_CONNECT, Duration::from_millis),
        first_byte,
        idle: settings.idle_ms.map_or(DEFAULT_IDLE, Duration::from_millis),
        deadline: record.arrived + total,
        total,
    }
}

thread_local! {
    static RANDOM: std::cell::RefCell<fastrand::Rng> = std::cell::RefCell::new(fastrand::Rng::new());
}

fn fastrand_with<T>(with: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
    RANDOM.with(|random| with(&mut random.borrow_mut()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Rc<Core>, Entry, Admitted, Record, Rc<Client>) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn the_state_of_a_call_stays_small() {
        // Thousands of these live at once, and each is walked with a cold cache.
        const MOST: usize = 4_352;
        assert!(size(run) <= MOST, "{} bytes", size(run));
    }
}
