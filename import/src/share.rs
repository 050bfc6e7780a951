//! How the deployments of a group share its calls, as LiteLLM's shuffle does: by the first of `weight`, `rpm`, `tpm` that
//! any of them has, level by level of `order`.

use crate::context::Context;
use crate::decimal::Decimal;
use crate::deployment::Entry;

const MOST_WEIGHT: i64 = 1_000_000;
/// Decimals of a weight that count.
const MOST_PLACES: i32 = 6;

/// Sets weights and priorities of one group.
pub fn settle(group: &mut [&mut Entry], context: &mut Context<'_>) {
    order(group);
    let (metric, shares) = shares(group);
    let Some(metric) = metric else { return };
    let spare = group.iter().map(|entry| entry.spec.priority).max().unwrap_or(0) + 1;
    for (entry, share) in group.iter_mut().zip(shares) {
        match share {
            Some(weight) => entry.spec.weight = weight,
            None => {
                entry.spec.priority = spare;
                let path = format!("{}.litellm_params.{metric}", entry.path);
                let message =
                    format!("without a `{metric}` above 0 it is tried only when the others of its name cannot be");
                context.notes.warn(path, message, format!("give every deployment of `{}` a {metric}", entry.group));
            }
        }
    }
}

/// Sets the priorities of one group by `order`.
pub fn order(group: &mut [&mut Entry]) {
    let last = group.iter().filter_map(|entry| entry.share.order).max();
    if let Some(last) = last {
        // Those without an order come after those with one.
        for entry in group.iter_mut() {
            entry.spec.priority = entry.share.order.unwrap_or(last + 1);
        }
    }
}

/// The metric that decides and the weight of each; `None`: has none.
fn shares(group: &[&mut Entry]) -> (Option<&'static str>, Vec<Option<i32>>) {
    let weights: Vec<Option<&Decimal>> = group
        .iter()
        .map(|entry| entry.share.weight.as_ref().map(|(_, weight)| weight).filter(|weight| !weight.is_zero()))
        .collect();
    if group.iter().any(|entry| entry.share.weight.is_some()) && weights.iter().any(Option::is_some) {
        let places = weights.iter().flatten().map(|weight| weight.places()).max().unwrap_or(0).min(MOST_PLACES);
        let whole = |weight: &Decimal| weight.scaled(places).or_else(|| weight.scaled(MOST_PLACES)).unwrap_or(1);
        return (Some("weight"), fit(weights.into_iter().map(|weight| weight.map(whole)).collect()));
    }
    if group.len() < 2 {
        return (None, Vec::new());
    }
    let rpm: Vec<Option<i64>> = group.iter().map(|entry| entry.spec.limits.requests_per_minute).collect();
    let tpm: Vec<Option<i64>> = group.iter().map(|entry| entry.spec.limits.tokens_per_minute).collect();
    for (metric, values) in [("rpm", rpm), ("tpm", tpm)] {
        if values.iter().any(Option::is_some) {
            let common = values.iter().flatten().copied().fold(0, greatest_common_divisor).max(1);
            return (Some(metric), fit(values.into_iter().map(|value| value.map(|value| value / common)).collect()));
        }
    }
    (None, Vec::new())
}

/// Into the range that weights have, in proportion.
fn fit(values: Vec<Option<i64>>) -> Vec<Option<i32>> {
    let most = values.iter().flatten().copied().max().unwrap_or(1);
    let divisor = most.div_euclid(MOST_WEIGHT) + i64::from(most % MOST_WEIGHT != 0);
    let divisor = divisor.max(1);
    let fit = |value: i64| i32::try_from((value / divisor).clamp(1, MOST_WEIGHT)).unwrap_or(i32::MAX);
    values.into_iter().map(|value| value.map(fit)).collect()
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fit_and_keep_their_proportion() {
        assert_eq!(fit(vec![Some(7), None, Some(3)]), [Some(7), None, Some(3)]);
        assert_eq!(fit(vec![Some(4_000_000), Some(2_000_000)]), [Some(1_000_000), Some(500_000)]);
        assert_eq!(
            fit(vec![Some(i64::MAX), Some(1)]),
            [Some(999_999), Some(1)].map(|weight| weight.map(|w: i32| w.max(1)))
        );
        assert_eq!(greatest_common_divisor(600, 400), 200);
    }
}
