//! One attempt's money and counters: held before dispatch, settled once with what was really used. Whoever holds a
//! [`Booking`] and drops it unsettled (a cancelled task, a panic) has charged the hold: doubt is never free.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tollgate_dialects::usage::Usage;
use tollgate_ledger::{Amounts, Hold, Outcome, Settlement, Short};
use tollgate_snapshot::model::Name;
use tollgate_snapshot::money::NanoUsd;
use tollgate_snapshot::price::{Cost, CostContext, CostError, PriceSheet};

use crate::core::Core;
use crate::hold::UNKNOWN_COST;
use crate::limits::{Permits, Spent};
use crate::searching::Searching;
use crate::slice::Slice;
use crate::surcharge::Surcharge;
use crate::tables::DeploymentState;

/// Counts an attempt under way at its deployment, for least-busy routing.
#[derive(Debug)]
pub struct InFlight(Arc<DeploymentState>);

impl InFlight {
    pub fn new(state: &Arc<DeploymentState>) -> InFlight {
        state.in_flight.fetch_add(1, Relaxed);
        InFlight(state.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// An attempt that is paid for. `None` in `hold` after it was settled.
pub struct Booking {
    pub core: Rc<Core>,
    pub hold: Option<Hold>,
    pub held: Amounts,
    /// Where less is held than the attempt may come to.
    pub slice: Option<Box<Slice>>,
    pub price: Option<Arc<PriceSheet>>,
    /// Some budget of the call is a Hard one.
    pub hard: bool,
    /// Limits of the deployment and its account.
    pub permits: Permits,
    pub in_flight: Option<InFlight>,
    /// `namespace/name`
    pub deployment: Name,
    /// Index into the snapshot's deployments.
    pub deployment_index: u32,
    pub cancel_stops_billing: bool,
    /// The provider says what a call cost, and is believed.
    pub trusts_reported_cost: bool,
    pub requested_service_tier: Option<Box<str>>,
    pub surcharge: Surcharge,
    pub searching: Searching,
    /// The answer cites pages that a search found.
    pub cited: bool,
    pub started: Instant,
    pub started_unix_ms: i64,
    pub first_byte: Option<Duration>,
    /// When the answer was here; `None`: it ends when it is settled.
    pub ended: Option<Instant>,
    /// About how many tokens the input has.
    pub input_estimate: u64,
    /// Output tokens that the provider can make, where something caps them.
    pub most_output: u64,
    /// Tokens that the provider read from its cache do not count against rates.
    pub ignore_cached: bool,
}

/// What an attempt came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Booked {
    pub usage: Usage,
    pub cost: Cost,
    /// Counted here, not reported by the provider.
    pub estimated: bool,
    /// What counts against rates of tokens; `None`: what was reserved.
    pub spent: Option<Spent>,
}

impl Booking {
    /// Whether a usage can be all that was used. Zero tokens of an input, and of an output that is there, are what servers
    /// send that do not count. `has_output`: asked only where none is told.
    pub fn believes(&self, usage: &Usage, has_output: impl FnOnce() -> bool) -> bool {
        let is_priced = self.trusts_reported_cost && usage.provider_cost_usd.is_some();
        is_priced || (usage.input_tokens > 0 && (usage.output_tokens > 0 || !has_output()))
    }

    /// The provider said what was used.
    pub fn settle(&mut self, mut usage: Usage, status: u16) -> Booked {
        self.searching.complete(&mut usage, self.hard, self.cited);
        let context = CostContext {
            requested_service_tier: self.requested_service_tier.as_deref(),
            at_unix_seconds: Some(self.started_unix_ms / 1000),
            trust_reported_cost: self.trusts_reported_cost,
            region: self.surcharge.region(),
            speed: self.surcharge.speed(),
            search_context_size: self.searching.size(),
        };
        let Some(price) = &self.price else {
            return self.finish(usage, Cost::default(), status, Outcome::Unpriced);
        };
        match price.cost(&usage, &context) {
            Ok(cost) => self.finish(usage, cost, status, Outcome::Exact),
            // No money was held that could stand for it: what is known is booked, and the row says that it is not all.
            Err(CostError::Unpriced { unit, known }) if !self.hard || self.held.nano_usd <= UNKNOWN_COST => {
                if self.held.nano_usd > UNKNOWN_COST {
                    // Else it was counted when it was held.
                    self.core.bank.own.unpriced.add(1);
                }
                tracing::debug!(unit = unit.name(), "the model's price does not cover what was used");
                let cost = Cost { total: known, other: known, ..Cost::default() };
                self.finish(usage, cost, status, Outcome::Unpriced)
            }
            // The true cost is unknown, the hold bounds what was foreseen.
            Err(error) => {
                tracing::warn!(%error, "what the provider reported has no price; the hold was charged: {error}");
                self.charge(status)
            }
        }
    }

    /// Nobody said what was used, and the call is under no Hard budget: booked as counted here, flagged. `output_bytes`: of
    /// what was said.
    pub fn estimate(&mut self, output_bytes: u64, status: u16) -> Booked {
        let output_tokens = output_bytes.div_ceil(4).min(self.most_output);
        let mut usage = Usage { input_tokens: self.input_estimate, output_tokens, ..Usage::default() };
        self.searching.complete(&mut usage, self.hard, self.cited);
        let context = CostContext {
            requested_service_tier: self.requested_service_tier.as_deref(),
            at_unix_seconds: Some(self.started_unix_ms / 1000),
            region: self.surcharge.region(),
            speed: self.surcharge.speed(),
            search_context_size: self.searching.size(),
            ..CostContext::default()
        };
        let cost = match &self.price {
            None => Cost::default(),
            Some(price) => price.cost(&usage, &context).unwrap_or_default(),
        };
        self.core.bank.own.usage_missing.add(1);
        let mut booked = self.finish(usage, cost, status, Outcome::Estimated);
        booked.estimated = true;
        booked
    }

    /// What was used is unknown or ambiguous: under a Hard budget the whole hold is charged, else an estimate.
    pub fn settle_unknown(&mut self, output_bytes: u64, status: u16) -> Booked {
        if self.hard { self.charge(status) } else { self.estimate(output_bytes, status) }
    }

    /// Makes sure that what is held covers a stream of which so much output arrived, since its first bytes, and what may be
    /// on its way. `asks`: for more allowance, although little came since it was asked for. What is missing, where it
    /// covers that for now: to be tried again when something is released.
    ///
    /// # Errors
    /// It does not: some budget has nothing left. The stream must end here.
    pub fn cover(&mut self, arrived: u64, since: Duration, asks: bool) -> Result<Option<Short>, Short> {
        if let (Some(slice), Some(in_flight)) = (&mut self.slice, &self.in_flight) {
            slice.measure(arrived, since, &in_flight.0.speed);
        }
        self.grow(|slice, extend| slice.cover(arrived, asks, extend))
    }

    /// As [`Booking::cover`], for all that the provider may send: what it makes is not seen any more.
    ///
    /// # Errors
    /// As [`Booking::cover`].
    pub fn cover_all(&mut self) -> Result<(), Short> {
        self.grow(|slice, extend| slice.cover_all(extend)).map(|_| ())
    }

    /// How fast a stream was: so much arrived in this time. For those that come after it.
    pub fn tell_speed(&self, arrived: u64, since: Duration) {
        if let (Some(slice), Some(in_flight)) = (&self.slice, &self.in_flight) {
            slice.tell(arrived, since, &in_flight.0.speed);
        }
    }

    fn grow(
        &mut self,
        cover: impl FnOnce(&mut Slice, &mut dyn FnMut(Amounts, bool) -> Result<(), Short>) -> Result<Option<Short>, Short>,
    ) -> Result<Option<Short>, Short> {
        let Booking { core, slice: Some(slice), hold: Some(hold), held, .. } = self else { return Ok(None) };
        let now_ms = core.unix_ms(Instant::now());
        let covered = cover(slice, &mut |to, asks| core.writer.borrow().extend(hold, to, now_ms, asks));
        *held = hold.amounts();
        covered
    }

    /// Nobody knows what was made of a stream, or whether the provider goes on with it: the whole cap, as far as it can
    /// still be held.
    pub fn settle_unseen(&mut self, output_bytes: u64, status: u16) -> Booked {
        // Where it cannot, what is held is charged.
        let _ = self.cover_all();
        self.settle_unknown(output_bytes, status)
    }

    /// The stream was cancelled when so much output had arrived, and the provider bills no more than it sent. Charged is
    /// the most that this can be; the whole hold where it is not known.
    pub fn charge_cancelled(&mut self, arrived: u64, status: u16) -> Booked {
        let most = self.slice.as_ref().map_or(self.held, |slice| slice.used_at_most(arrived));
        self.charge_up_to(most, status)
    }

    /// Charges the whole hold.
    pub fn charge(&mut self, status: u16) -> Booked {
        self.charge_up_to(self.held, status)
    }

    fn charge_up_to(&mut self, most: Amounts, status: u16) -> Booked {
        self.core.bank.own.usage_missing.add(1);
        let total = NanoUsd(most.nano_usd.min(self.held.nano_usd));
        if let Some(hold) = self.hold.take() {
            hold.charge_up_to(most, status, self.elapsed_ms());
        }
        Booked { cost: Cost { total, ..Cost::default() }, estimated: true, ..Booked::default() }
    }

    /// Nothing was used: never dispatched, or answered by a complete error.
    pub fn release(&mut self, status: u16) {
        for permit in &mut self.permits {
            permit.settle(Spent::default());
        }
        if let Some(hold) = self.hold.take() {
            hold.release(status, self.elapsed_ms());
        }
    }

    fn finish(&mut self, usage: Usage, cost: Cost, status: u16, outcome: Outcome) -> Booked {
        let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        let spent = Spent::new(&usage, self.ignore_cached);
        for permit in &mut self.permits {
            permit.settle(spent);
        }
        let actual = Amounts { nano_usd: cost.total.0, tokens: tokens as i64, requests: 1 };
        if let Some(hold) = self.hold.take() {
            hold.settle(Settlement {
                actual,
                input_tokens: usage.input_tokens,
                output_tokens: usage.output_tokens,
                cache_read_tokens: usage.cache_read_tokens,
                cache_write_tokens: usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
                reasoning_tokens: usage.reasoning_tokens,
                status,
                outcome,
                duration_ms: self.elapsed_ms(),
                first_byte_ms: self.first_byte.map_or(0, |after| after.as_millis() as u32),
            });
        }
        Booked { usage, cost, estimated: false, spent: Some(spent) }
    }

    fn elapsed_ms(&self) -> u32 {
        let ended = self.ended.unwrap_or_else(Instant::now);
        ended.duration_since(self.started).as_millis().min(u128::from(u32::MAX)) as u32
    }
}
