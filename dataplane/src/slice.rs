//! Holds that grow. Of a stream whose provider bills no more than it sent before its connection was closed, not the whole
//! cap on the output is held, but a slice beyond what has arrived, and more as it goes on; a stream for which nothing is
//! left is ended. So fifty long answers fit into a budget that could not pay for the longest of each.
//!
//! Safe is that only while three things hold. No more tokens were made than what arrived has bytes ([`tokens_at_most`]
//! counts them) and [`LEAD`] beside. The provider hears that we closed, and stops. All output is shown as it is made:
//! where that is not certain ([`shows_all`]), and where a period would end under way, the whole cap is held.
//!
//! Money that others hold comes free when they end, so a stream waits for it; but it cannot be stopped for that time: who
//! reads no more does not know any more how much is made. It waits while it is read: more is asked for as long before it is
//! needed as calls may wait, at the [`Speed`] of the deployment.
//!
//! [`tokens_at_most`]: tollgate_dialects::sniff::StreamSniffer::output_at_most

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tollgate_dialects::head::Operation;
use tollgate_ledger::{Amounts, Short};
use tollgate_snapshot::model::{Deployment, Name};
use tollgate_snapshot::money::{NanoUsd, Rate};
use tollgate_snapshot::price::Unit;

use crate::call::Call;
use crate::error::GatewayError;

/// Tokens of an answer that may be made and not have arrived: on their way, or made after we closed. Five seconds of a
/// usual provider, a quarter of one of the fastest.
const LEAD: u64 = 512;

/// Tokens of an answer that are held beyond, and that more is held by each time, at least.
const LEAST: u64 = 512;

/// The smallest first slice: a cap up to this is always held whole. Tokens of one answer.
pub const FIRST: u64 = LEAD + LEAST + LEAST;

/// After a try that failed, so much more must arrive before the next, and before more allowance is asked for.
const AGAIN: u64 = 16;
const ASK_AGAIN: u64 = 64;

/// How fast an answer is taken to come where none was seen: 128 tokens of plain English. Bytes in a second.
const USUAL_SPEED: u32 = 512;

/// Of a stream that is not measured yet, after so much it is. Bytes of one answer.
const MEASURED_FROM: u64 = 128;

/// The speed of a stream counts for others once it is known this well.
const TELLING_BYTES: u64 = 4096;
const TELLING_TIME: Duration = Duration::from_millis(500);

/// What came at once has been on its way for this long at least.
const SHORTEST: Duration = Duration::from_millis(100);

/// How fast the answers of a deployment come: bytes in a second of one answer, as its latest streams did. 0: not known.
#[derive(Debug, Default)]
pub struct Speed(AtomicU32);

impl Speed {
    /// Bytes in a second.
    pub fn get(&self) -> u32 {
        match self.0.load(Relaxed) {
            0 => USUAL_SPEED,
            speed => speed,
        }
    }

    /// Takes a stream into account: at once where it is faster, by and by where it is slower.
    fn saw(&self, speed: u32) {
        let known = self.0.load(Relaxed);
        let speed = if speed >= known { speed } else { known - (known - speed).div_ceil(8) };
        self.0.store(speed.max(1), Relaxed);
    }
}

/// What of a stream's output is held.
#[derive(Debug)]
pub struct Slice {
    /// The hold without any output, and with all of it.
    input: Amounts,
    full: Amounts,
    /// The dearest that a token of output can be.
    rate: Rate,
    /// How many answers come together.
    answers: u64,
    /// Output tokens of all answers: the cap, and what is held.
    cap: u64,
    held: u64,
    /// How long money is waited for.
    patience: Duration,
    /// What arrives meanwhile, of one answer: as it was with others, and of this stream. Bytes.
    usual_reach: u64,
    reach: u64,
    /// Nothing is to be done while no more than this arrived.
    enough_for: u64,
    /// Nothing is asked for before so much arrived.
    asks_from: u64,
    /// Some output may have been made that nobody counted.
    is_unseen: bool,
    /// Of the key: it decides what its holder is told of budgets.
    pub namespace: Option<Name>,
}

/// The output of an answer that is held at first, where answers come this fast and wait so long. Tokens.
pub fn first(speed: u32, patience: Duration) -> u64 {
    LEAD.saturating_add(ahead(reach(speed, patience)))
}

/// The bytes of an answer that arrive while money is waited for.
fn reach(speed: u32, patience: Duration) -> u64 {
    let millis = patience.as_millis().min(u128::from(u32::MAX)) as u64;
    (u64::from(speed).saturating_mul(millis) / 1000).max(LEAST)
}

/// What is held beyond what may have been made already, where something was there to be had.
fn ahead(reach: u64) -> u64 {
    reach.saturating_add(LEAST.max(reach / 2))
}

impl Slice {
    /// What is held at first; `None` where that is all in any case. `cap`: output tokens of each answer. `full`: the hold
    /// for them.
    /// `patience`: how long calls wait for money that others hold.
    pub fn first(
        input: Amounts,
        full: Amounts,
        rate: Rate,
        cap: u64,
        answers: u64,
        speed: u32,
        patience: Duration,
    ) -> Option<Slice> {
        let answers = answers.max(1);
        let (cap, held) = (cap.saturating_mul(answers), first(speed, patience).saturating_mul(answers));
        let reach = reach(speed, patience);
        let mut slice = Slice {
            input,
            full,
            rate,
            answers,
            cap,
            held,
            patience,
            usual_reach: reach,
            reach,
            enough_for: 0,
            asks_from: 0,
            is_unseen: false,
            namespace: None,
        };
        slice.set(held);
        if held < cap {
            // Looked at early, to see how fast this one is.
            slice.enough_for = slice.enough_for.min(MEASURED_FROM.saturating_mul(answers));
        }
        (slice.least() < cap).then_some(slice)
    }

    /// Before anything is held: the smallest first slice. False where it is that already.
    pub fn shrink(&mut self) -> bool {
        let least = self.least();
        let is_larger = self.held > least;
        if is_larger {
            self.held = least;
            self.enough_for = 0;
        }
        is_larger
    }

    fn least(&self) -> u64 {
        self.all(FIRST)
    }

    /// Takes note of how fast the stream comes: so much arrived in this time since its first bytes.
    pub fn measure(&mut self, arrived: u64, since: Duration, speed: &Speed) {
        let own = self.speed(arrived, since);
        self.reach = self.usual_reach.max(reach(own, self.patience));
        self.tell(arrived, since, speed);
    }

    /// What the stream says about others at its deployment.
    pub fn tell(&self, arrived: u64, since: Duration, speed: &Speed) {
        let is_telling = since >= TELLING_TIME || arrived / self.answers >= TELLING_BYTES;
        if is_telling && !self.is_unseen && arrived / self.answers >= LEAST {
            speed.saw(self.speed(arrived, since));
        }
    }

    /// Bytes in a second of one answer.
    fn speed(&self, arrived: u64, since: Duration) -> u32 {
        let millis = since.max(SHORTEST).as_millis() as u64;
        u32::try_from((arrived / self.answers).saturating_mul(1000) / millis).unwrap_or(u32::MAX)
    }

    /// What is held now.
    pub fn held(&self) -> Amounts {
        self.amounts(self.held)
    }

    /// The most that can have been used when so much had arrived and the stream was cancelled.
    pub fn used_at_most(&self, arrived: u64) -> Amounts {
        match self.is_unseen {
            true => self.held(),
            false => self.amounts(self.needed(arrived).min(self.held)),
        }
    }

    /// Whether nothing is to be done when so much has arrived.
    pub fn covers(&self, arrived: u64) -> bool {
        arrived <= self.enough_for
    }

    /// The least that must be held when so much has arrived.
    pub fn needs(&self, arrived: u64) -> Amounts {
        match self.is_unseen {
            true => self.full,
            false => self.amounts(self.needed(arrived)),
        }
    }

    /// Makes what is held enough for what arrived and will while money is waited for; less than that where there is not
    /// more. `extend` holds that much; its second argument: ask for more allowance, which comes later. `asks`: so it does
    /// although little arrived since it did. What is missing, if it is enough for now.
    ///
    /// # Errors
    /// The last of `extend`: what is held is not enough.
    pub fn cover<E>(
        &mut self,
        arrived: u64,
        asks: bool,
        mut extend: impl FnMut(Amounts, bool) -> Result<(), E>,
    ) -> Result<Option<E>, E> {
        if self.held == self.cap {
            return Ok(None);
        }
        let needed = self.needed(arrived);
        if needed.saturating_add(self.all(self.reach)) <= self.held {
            self.set(self.held);
            return Ok(None);
        }
        let least = needed.max(self.held);
        let spare = needed.saturating_add(self.all(ahead(self.reach))).min(self.cap).saturating_sub(least);
        let is_due = arrived >= self.asks_from;
        let mut asks = asks || is_due;
        let (mut last, mut tried) = (None, u64::MAX);
        for to in [least + spare, least + spare / 4, least + spare / 16, least] {
            if to <= self.held {
                break;
            }
            if std::mem::replace(&mut tried, to) == to {
                continue;
            }
            match extend(self.amounts(to), asks) {
                Ok(()) => {
                    self.set(to);
                    return Ok(last);
                }
                Err(error) => last = Some(error),
            }
            asks = false;
        }
        if is_due {
            self.asks_from = arrived.saturating_add(ASK_AGAIN);
        }
        match last {
            Some(error) if needed > self.held => Err(error),
            short => {
                self.enough_for = arrived.saturating_add(AGAIN).min(self.held.saturating_sub(self.lead()));
                Ok(short)
            }
        }
    }

    /// [`Slice::cover`] for the whole cap: from now on it is not seen how much is made.
    ///
    /// # Errors
    /// As there.
    pub fn cover_all<E>(&mut self, extend: impl FnMut(Amounts, bool) -> Result<(), E>) -> Result<Option<E>, E> {
        self.is_unseen = true;
        self.cover(u64::MAX, false, extend)
    }

    fn set(&mut self, held: u64) {
        self.held = held.min(self.cap);
        self.asks_from = 0;
        self.enough_for = match self.held == self.cap {
            true => u64::MAX,
            false => self.held.saturating_sub(self.lead().saturating_add(self.all(self.reach))),
        };
    }

    /// Of all answers what it is of one.
    fn all(&self, of_one: u64) -> u64 {
        of_one.saturating_mul(self.answers)
    }

    fn lead(&self) -> u64 {
        self.all(LEAD)
    }

    /// Output tokens that may have been made when so many have arrived.
    fn needed(&self, arrived: u64) -> u64 {
        arrived.saturating_add(self.lead()).min(self.cap)
    }

    fn amounts(&self, output: u64) -> Amounts {
        if output >= self.cap {
            return self.full;
        }
        let Amounts { nano_usd, tokens, requests } = self.input;
        let NanoUsd(cost) = self.rate.cost_of(output);
        Amounts {
            nano_usd: nano_usd.saturating_add(cost).min(self.full.nano_usd),
            tokens: tokens.saturating_add(output.min(i64::MAX as u64) as i64).min(self.full.tokens),
            requests,
        }
    }
}

/// Whether all output that is billed of such a call is seen as it is made, and no more is billed than that.
pub fn shows_all(call: &Call, deployment: &Deployment) -> bool {
    let Call { operation, stream, head, .. } = call;
    *stream
        && deployment.cancel_stops_billing
        && deployment.shows_output
        && matches!(operation, Operation::Chat | Operation::Completions | Operation::Messages)
        // Servers gather the call of a tool before they send it.
        && !head.has_tools
        && head.best_of <= head.n
        && head.modalities.audio == 0
        && !head.asks_for_media
        && head.prediction.is_none()
        && !deployment.price.as_ref().is_some_and(|price| price.charges_for(Unit::OutputImageToken))
        && !call.may_search()
        && !asks_for_thoughts(call)
}

/// Whether the call says anything about thoughts, which may be left out of the stream.
fn asks_for_thoughts(call: &Call) -> bool {
    let Call { head, body, .. } = call;
    let mut texts = [head.system, head.content].map(|field| field.map_or(0..0, |field| field.value.range()));
    texts.sort_by_key(|text| text.start);
    let [first, second] = texts;
    let around = [&body[..first.start], &body[first.end..second.start.max(first.end)], &body[second.end..]];
    ["think", "reason"]
        .iter()
        .any(|word| around.iter().any(|part| memchr::memmem::find(part, word.as_bytes()).is_some()))
}

/// What the client of a stream is told that is ended. `needs`: what it had to hold to go on. `namespace`: of its key.
/// Unix milliseconds.
pub fn ended(short: &Short, needs: Amounts, namespace: Option<&str>, now_ms: i64) -> GatewayError {
    let Some(budget) = &short.budget else {
        return GatewayError::BudgetUnavailable { budget: "ledger".to_owned() };
    };
    if short.is_away {
        return GatewayError::BudgetUnavailable { budget: budget.id().to_owned() };
    }
    let view = budget.view(now_ms.div_euclid(1000));
    GatewayError::BudgetEnded {
        standing: crate::hold::standing(budget, namespace, [view.spent, view.held, view.limit]),
        is_reserved: view.spent.saturating_add(needs.of(budget.unit())) <= view.limit,
        budget: view.id,
        resets_at: view.resets_at,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tollgate_snapshot::price::{Bounds, Part, PriceSheet, Unit};

    use super::*;

    fn amounts(nano_usd: i64, tokens: i64) -> Amounts {
        Amounts { nano_usd, tokens, requests: 1 }
    }

    const PATIENCE: Duration = Duration::from_secs(2);

    /// 10 nano-USD a token of output, 100 tokens of input that cost 500. Bytes in a second.
    fn slice_at(speed: u32, cap: u64, answers: u64) -> Option<Slice> {
        let all = (cap * answers) as i64;
        let (input, full) = (amounts(500, 100), amounts(500 + 10 * all, 100 + all));
        Slice::first(input, full, Rate(10_000_000_000), cap, answers, speed, PATIENCE)
    }

    /// Of a slow one.
    fn slice(cap: u64, answers: u64) -> Option<Slice> {
        slice_at(256, cap, answers)
    }

    #[test]
    fn a_short_answer_is_held_whole_and_of_a_long_one_the_first_slice() {
        assert!(slice(FIRST, 1).is_none() && slice(FIRST, 3).is_none());
        assert_eq!(slice(FIRST + 1, 1).map(|slice| slice.held()), Some(amounts(500 + 10 * 1536, 100 + 1536)));
        assert_eq!(slice(FIRST + 1, 2).map(|slice| slice.held()), Some(amounts(500 + 10 * 3072, 100 + 3072)));
    }

    /// What `cover` asked for, in output tokens, and its answer, where no more than `most` can be held.
    fn cover(slice: &mut Slice, arrived: u64, most: u64) -> (Vec<(i64, bool)>, bool) {
        let mut tries = Vec::new();
        let covered = slice.cover(arrived, false, |to, asks| {
            tries.push((to.tokens - 100, asks));
            if (to.tokens - 100) as u64 <= most { Ok(()) } else { Err(()) }
        });
        (tries, covered.is_ok())
    }

    #[test]
    fn more_is_held_before_the_slice_is_used_up_and_less_of_it_near_the_end() {
        let mut one = slice(10_000, 1).unwrap();
        assert!(one.covers(128) && !one.covers(129));
        assert_eq!(cover(&mut one, 129, 0), (vec![], true), "looked at, and nothing to be done");
        assert!(one.covers(512) && !one.covers(513));
        assert_eq!(cover(&mut one, 513, u64::MAX), (vec![(2049, true)], true));
        assert!(one.covers(1025) && !one.covers(1026));
        // Nothing more can be had, but what is held still is enough; asked once, tried again a little later.
        let (tries, covered) = cover(&mut one, 1100, 2049);
        assert_eq!((tries, covered), (vec![(2636, true), (2195, false), (2085, false)], true));
        assert!(one.covers(1116) && !one.covers(1117));
        assert_eq!(cover(&mut one, 1117, 2049), (vec![(2653, false), (2200, false), (2086, false)], true));
        // A part can.
        assert_eq!(cover(&mut one, 1200, 2300), (vec![(2736, true), (2220, false)], true));
        assert_eq!(one.held().tokens, 100 + 2220);
        // Not even what is needed can.
        let (tries, covered) = cover(&mut one, 1900, 2300);
        assert_eq!((tries, covered), (vec![(3436, true), (2668, false), (2476, false), (2412, false)], false));
        assert_eq!(one.used_at_most(1900), one.held());
        assert_eq!(one.used_at_most(100).tokens, 100 + 100 + 512);
    }

    #[test]
    fn the_cap_is_the_most_that_is_ever_held() {
        let mut one = slice(2000, 1).unwrap();
        assert_eq!(cover(&mut one, 600, u64::MAX), (vec![(2000, true)], true));
        assert_eq!(one.held(), amounts(500 + 10 * 2000, 2100));
        assert!(one.covers(u64::MAX));
        let mut one = slice(1_000_000, 1).unwrap();
        assert_eq!(one.used_at_most(9).tokens, 100 + 9 + 512);
        assert_eq!(one.cover_all(|to, _| if to.tokens == 1_000_100 { Ok(()) } else { Err(()) }), Ok(None));
        assert_eq!((one.used_at_most(9), one.covers(u64::MAX)), (one.held(), true));
        let mut one = slice(1_000_000, 1).unwrap();
        let held = one.held();
        assert_eq!(one.cover_all(|_, _| Err(())), Err(()));
        assert_eq!((one.used_at_most(9), one.held()), (held, held), "nobody knows how much it was");
    }

    #[test]
    fn the_faster_it_comes_the_earlier_more_is_held() {
        // Two seconds of 2,000 bytes, and half of that beyond.
        let mut one = slice_at(2_000, 100_000, 1).unwrap();
        assert_eq!(one.held().tokens, 100 + 512 + 4_000 + 2_000);
        assert_eq!(cover(&mut one, 2_000, 0), (vec![], true));
        assert_eq!(cover(&mut one, 2_001, 20_000), (vec![(2_001 + 512 + 6_000, true)], true));
        // It is short, but goes on for two seconds.
        let most = one.held().tokens as u64 - 100;
        assert!(cover(&mut one, 4_002, most).1 && cover(&mut one, 8_001, most).1 && !cover(&mut one, 8_002, most).1);
        // One that is faster than others were is known early.
        let speed = Speed::default();
        let mut one = slice_at(speed.get(), 100_000, 1).unwrap();
        assert_eq!(one.held().tokens, 100 + 512 + 1_024 + 512);
        one.measure(200, Duration::from_millis(100), &speed);
        assert_eq!(cover(&mut one, 200, 20_000), (vec![(200 + 512 + 6_000, true)], true));
        assert_eq!(speed.get(), USUAL_SPEED, "a few bytes say nothing about others");
        one.measure(2_000, Duration::from_secs(1), &speed);
        assert_eq!(speed.get(), 2_000);
        one.measure(2_000, Duration::from_secs(2), &speed);
        assert_eq!(speed.get(), 1_875);
        // What came at once came in no time.
        one.measure(4_096, Duration::ZERO, &speed);
        assert_eq!(speed.get(), 40_960);
    }

    #[test]
    fn where_a_first_slice_is_too_large_for_what_is_left_a_small_one_is_tried() {
        let mut one = slice_at(50_000, 20_000, 2).unwrap();
        assert_eq!((one.held().tokens, one.covers(u64::MAX)), (100 + 40_000, true), "all of it");
        assert!(one.shrink() && !one.shrink());
        assert_eq!((one.held().tokens, one.covers(1)), (100 + 2 * 1536, false));
    }

    proptest! {
        #[test]
        fn what_is_held_covers_what_arrived_and_the_lead_whatever_can_be_had(
            cap in 1..40_000u64,
            answers in 1..4u64,
            mut room in 0..60_000i64,
            events in prop::collection::vec((0..700u64, -300..2000i64), 0..60),
            usd_per_million in 0..90_000u64,
            speed in 1..4_000u32,
        ) {
            let usd = format!("0.{usd_per_million:05}");
            let part = |unit, usd| Part { unit, usd, per: 1_000_000, above_input_tokens: None, service_tier: None };
            let sheet = PriceSheet::from_parts("", &[part(Unit::InputToken, "1"), part(Unit::OutputToken, &usd)]).unwrap();
            let worst = |output_tokens, choices| {
                let bounds = Bounds { input_tokens: 77, output_tokens, choices, ..Bounds::default() };
                sheet.worst_case(&bounds).unwrap().0
            };
            let hold = |output: u64| amounts(worst(output, 1), 77 + output as i64);
            let rate = sheet.output_rate_bound(&Bounds::default()).unwrap();
            let Some(mut slice) = Slice::first(hold(0), amounts(worst(cap, answers), 77 + (cap * answers) as i64), rate, cap, answers, speed, PATIENCE)
            else { return Ok(()) };
            let mut held = slice.held();
            let mut arrived = 0;
            for (bytes, freed) in events {
                arrived += bytes;
                room = (room + freed).max(0);
                if !slice.covers(arrived) {
                    let before = held;
                    let covered = slice.cover(arrived, false, |to, _| {
                        let more = to.tokens - held.tokens;
                        assert!(more > 0 && to.nano_usd >= held.nano_usd);
                        if more > room {
                            return Err(());
                        }
                        room -= more;
                        held = to;
                        Ok(())
                    });
                    if covered.is_err() {
                        // Not even a part was to be had.
                        prop_assert_eq!(held, before);
                        prop_assert!(hold((arrived + 512 * answers).min(cap * answers)).tokens - held.tokens > room);
                        break;
                    }
                }
                prop_assert_eq!(held, slice.held());
                let made = (arrived + 512 * answers).min(cap * answers);
                prop_assert!(held.tokens >= hold(made).tokens && held.nano_usd >= hold(made).nano_usd);
                let charged = slice.used_at_most(arrived);
                prop_assert!(charged.nano_usd >= hold(made).nano_usd && charged.nano_usd <= held.nano_usd);
                prop_assert!(held.nano_usd <= worst(cap, answers));
            }
        }
    }
}
