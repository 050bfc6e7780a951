//! How fast an account is used, over the last half minute to minute, and so for how long its allowance lasts. Whoever
//! looks notes where it stands; two notes are kept.

/// Notes are so far apart at least. Milliseconds.
const APART_MS: i64 = 30_000;

/// Less time than this says nothing. Milliseconds.
const LEAST_MS: i64 = 1_000;

/// What was used at two moments, the younger one at most half a minute ago as a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    notes: Option<[(i64, i64); 2]>,
}

impl Pace {
    /// `used`: in all, at this moment. `now_ms`: Unix milliseconds.
    pub fn note(&mut self, used: i64, now_ms: i64) {
        match &mut self.notes {
            None => self.notes = Some([(now_ms, used); 2]),
            Some([before, last]) if now_ms.saturating_sub(last.0) >= APART_MS => {
                (*before, *last) = (*last, (now_ms, used));
            }
            Some(_) => {}
        }
    }

    /// For how many milliseconds `left` lasts if it is used as lately. `None`: nothing is used.
    pub fn lasts_ms(&self, left: i64, used: i64, now_ms: i64) -> Option<i64> {
        let [(since_ms, before), _] = self.notes?;
        let (took_ms, spent) = (now_ms.saturating_sub(since_ms), used.saturating_sub(before));
        if took_ms < LEAST_MS || spent <= 0 {
            return None;
        }
        let lasts = i128::from(left.max(0)) * i128::from(took_ms) / i128::from(spent);
        Some(i64::try_from(lasts).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_lasts_as_long_as_it_does_at_the_recent_pace() {
        let mut pace = Pace::default();
        assert_eq!(pace.lasts_ms(100, 0, 5_000), None, "nobody looked yet");
        pace.note(0, 0);
        assert_eq!(pace.lasts_ms(100, 10, 999), None, "too soon");
        assert_eq!(pace.lasts_ms(100, 10, 2_000), Some(20_000));
        assert_eq!(pace.lasts_ms(100, 0, 2_000), None, "nothing is used");
        assert_eq!(pace.lasts_ms(-1, 10, 2_000), Some(0));
        assert_eq!(pace.lasts_ms(i64::MAX, 1, 2_000), Some(i64::MAX));
        // Ten a second, then one: what is a minute ago counts no more.
        for (at, used) in [(20_000, 200), (30_000, 300), (45_000, 315), (60_000, 330)] {
            pace.note(used, at);
        }
        assert_eq!(pace.lasts_ms(100, 330, 60_000), Some(100_000));
        // Nobody uses it any more.
        pace.note(330, 90_000);
        assert_eq!(pace.lasts_ms(100, 330, 90_000), None);
        // A clock that is set back says nothing until it has caught up.
        assert_eq!(pace.lasts_ms(100, 400, 10_000), None);
    }
}
