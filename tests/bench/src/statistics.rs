//! The few statistics of the tables: medians, percentiles, and ratios with their spread. Pure.

/// The middle of `values`; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that `share` of `values` do not exceed; 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len => sorted[((len - 1) as f64 * share).round() as usize],
    }
}

/// The same for whole nanoseconds, which come by the million.
pub fn percentile(nanos: &mut [u64], share: f64) -> f64 {
    if nanos.is_empty() {
        return 0.0;
    }
    let place = ((nanos.len() - 1) as f64 * share).round() as usize;
    *nanos.select_nth_unstable(place).1 as f64
}

/// The median of pair ratios and the middle half around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// Ratios of `ours` to `base`, measured next to each other. `None` without a usable pair.
    pub fn of_pairs(ours: &[f64], base: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> =
            ours.iter().zip(base).filter(|(_, base)| **base > 0.0).map(|(ours, base)| ours / base).collect();
        (!ratios.is_empty()).then(|| Self {
            median: median(&ratios),
            low: quantile(&ratios, 0.25),
            high: quantile(&ratios, 0.75),
        })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:.2} ({:.2}-{:.2})", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wild_window_does_not_move_the_ratio() {
        let ratio = Ratio::of_pairs(&[2.0, 2.2, 90.0, 1.8, 2.0], &[1.0; 5]).unwrap();
        assert_eq!(ratio.median, 2.0);
    }

    #[test]
    fn percentiles_of_small_sets_are_members_of_the_set() {
        assert_eq!(percentile(&mut [5, 1, 3], 0.5), 3.0);
        assert_eq!(percentile(&mut [5, 1, 3], 0.99), 5.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0);
    }
}
