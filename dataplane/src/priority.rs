//! Classes of keys under pressure (LiteLLM RL-5): while less than [`SCARCE_PERCENT`] of a rate of a deployment or an
//! account is used, every class may use what others leave; above, a class gets no more than its share of the rate. With a
//! counter in Redis each class of a rate is a limit of its own there, of which proxies have leases: of its share, and what
//! it borrows is told to the counter too. Without one it has its share of what this proxy lets through.

use std::sync::Arc;

use tollgate_snapshot::model::{Limits, Priority};

use crate::lease::Pressure;
use crate::limits::{ClassShare, LimitType, Permit, Reached, Usage};

/// A rate is scarce when so much of it is used, in percent.
const SCARCE_PERCENT: u64 = 80;

/// What the classes of one deployment or account have used; the last one is of keys without a class.
pub type Classes = Box<[Arc<Usage>]>;

/// Shares of all classes in percent; the last one is of keys without a class. Empty: there are no classes.
pub fn shares(priorities: &[Priority]) -> Vec<u64> {
    if priorities.is_empty() {
        return Vec::new();
    }
    let mut shares: Vec<u64> = priorities.iter().map(|priority| u64::from(priority.share_percent)).collect();
    shares.push(100_u64.saturating_sub(shares.iter().sum()));
    shares
}

/// Counts a call in its class. `permit`: what it has taken of the whole.
///
/// # Errors
/// The whole is scarce, and the class has used its share.
pub fn take(
    class: &Arc<Usage>,
    share_percent: u64,
    (whole, limits): (&Usage, &Limits),
    permit: &Permit,
    now: u64,
) -> Result<Permit, Reached> {
    let taken = class.take_share(permit, now, |limit_type| {
        let limit = limit_type.of(limits)?;
        Some(ClassShare {
            share: share(limit, share_percent),
            here: share(whole.part(limit_type, limit), share_percent),
            pressure: pressure(whole, limit_type, limit, permit, now)?,
        })
    });
    taken.inspect_err(|Reached { limit_type, of_share, .. }| {
        let limit = limit_type.of(limits).filter(|_| *of_share);
        if let Some(limit) = limit
            && pressure(whole, *limit_type, limit, permit, now) == Some(Pressure::Unsure)
        {
            whole.doubt(*limit_type, line(limit));
        }
    })
}

/// Before this call, so that the only call of a small limit finds it free. `None`: it took nothing of the limit.
fn pressure(whole: &Usage, limit_type: LimitType, limit: u64, permit: &Permit, now: u64) -> Option<Pressure> {
    let left = permit.left(limit_type)?.left;
    let pressure = whole.pressure(limit_type, line(limit), permit, now);
    Some(pressure.unwrap_or_else(|| {
        let cap = whole.cap(limit_type, limit);
        let used = cap.saturating_sub(left).saturating_sub(permit.amount(limit_type));
        if used < line(cap) { Pressure::Low } else { Pressure::High }
    }))
}

/// It is scarce when so much of it is used.
fn line(limit: u64) -> u64 {
    limit.saturating_mul(SCARCE_PERCENT).div_ceil(100)
}

/// A share that is not nothing lets one through.
fn share(limit: u64, percent: u64) -> u64 {
    let share = limit.saturating_mul(percent) / 100;
    if percent == 0 { 0 } else { share.max(1) }
}

#[cfg(test)]
mod leases;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Estimate;

    const HUNDRED: Limits = Limits {
        requests_per_minute: Some(100),
        tokens_per_minute: None,
        input_tokens_per_minute: None,
        output_tokens_per_minute: None,
        parallel_requests: None,
    };

    struct Upstream {
        whole: Arc<Usage>,
        classes: Vec<Arc<Usage>>,
        shares: Vec<u64>,
    }

    impl Upstream {
        fn new(shares_percent: &[u8]) -> Upstream {
            let priority = |share_percent: &u8| Priority { name: "x".into(), share_percent: *share_percent };
            let shares = shares(&shares_percent.iter().map(priority).collect::<Vec<_>>());
            let classes = shares.iter().map(|_| Arc::default()).collect();
            Upstream { whole: Arc::default(), classes, shares }
        }

        /// How many of `count` calls of a class are let in.
        fn send(&self, class: usize, count: usize, now: u64) -> usize {
            let one = || {
                let mut permit = self.whole.take(&HUNDRED, Estimate::default(), now).ok()?;
                let share = self.shares[class];
                let whole = (&*self.whole, &HUNDRED);
                take(&self.classes[class], share, whole, &permit, now).inspect_err(|_| permit.refund()).ok()
            };
            (0..count).filter_map(|_| one()).count()
        }
    }

    #[test]
    fn a_class_borrows_what_is_not_scarce_and_keeps_its_share_when_it_is() {
        let upstream = Upstream::new(&[75, 10]);
        let (production, batch, others) = (0, 1, 2);
        assert_eq!(upstream.shares, [75, 10, 15]);
        assert_eq!(upstream.send(batch, 100, 1), 80, "until the rate is scarce");
        assert_eq!(upstream.send(production, 100, 1), 20, "what is left is for whoever is below its share");
        assert_eq!(upstream.send(others, 1, 1), 0, "nothing is left at all");
        // In the next minute all ask at once.
        assert_eq!(upstream.send(production, 70, 61), 70);
        assert_eq!(upstream.send(batch, 100, 61), 10);
        assert_eq!(upstream.send(others, 100, 61), 15);
        assert_eq!(upstream.send(production, 100, 61), 5);
    }

    #[test]
    fn keys_without_a_class_have_nothing_where_all_is_shared_out() {
        let upstream = Upstream::new(&[60, 40]);
        assert_eq!(upstream.send(2, 100, 1), 80);
        assert_eq!(upstream.send(1, 100, 1), 20);
        assert!(shares(&[]).is_empty());
        assert_eq!([share(1, 10), share(1, 0), share(200, 10)], [1, 0, 20]);
    }
}
