//! Usage by names that clients choose: end users and tags, of which there is no list. Their number is bounded: what is
//! idle is forgotten, which changes nothing, and where a minute brings more names than there is room for, those that find
//! none share one usage. So forgetting never lets more through than the limit.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use tollgate_snapshot::model::KeyHash;

use crate::limits::Usage;

/// Names at once, of one rule in one namespace: some nine megabytes.
const MOST_NAMES: usize = 65_536;

/// Below this number nothing is looked through.
const FEW_NAMES: usize = 1_024;

/// Between two looks for idle ones while there is no room. Seconds.
const BETWEEN_LOOKS: u64 = 1;

/// What a name is kept as: its hash, so that no text of a client stays here.
pub type NameHash = u128;

/// Names of one rule in one namespace.
#[derive(Debug, Default)]
pub struct Names(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    usages: HashMap<NameHash, Arc<Usage>, BuildHasherDefault<Uniform>>,
    /// Of all names that find no room.
    crowd: Arc<Usage>,
    /// The number of names at which idle ones are looked for.
    look_at: usize,
    /// Seconds since the process began.
    looked_at: u64,
}

/// Hashes are uniform already.
#[derive(Debug, Default)]
struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// The hash of a name.
pub fn hash(name: &str) -> NameHash {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = KeyHash::of(name.as_bytes()).0;
    u128::from_be_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

impl Names {
    /// The usage of a name. `now`: seconds since the process began. `share`: called for one that is made, and with `None`
    /// for that of all that find no room.
    pub fn usage(&self, name: NameHash, now: u64, share: impl FnOnce(&Arc<Usage>, Option<NameHash>)) -> Arc<Usage> {
        self.usage_within(MOST_NAMES, name, now, share)
    }

    /// The usage of all that find no room.
    pub fn crowd(&self) -> Arc<Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).crowd.clone()
    }

    fn usage_within(
        &self,
        most: usize,
        name: NameHash,
        now: u64,
        share: impl FnOnce(&Arc<Usage>, Option<NameHash>),
    ) -> Arc<Usage> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = state.usages.get(&name) {
            return usage.clone();
        }
        let count = state.usages.len();
        if count >= state.look_at.max(FEW_NAMES).min(most) && now >= state.looked_at + BETWEEN_LOOKS {
            // Whoever has it in hand is about to count.
            state.usages.retain(|_, usage| Arc::strong_count(usage) > 1 || !usage.is_idle(now));
            state.looked_at = now;
            state.look_at = state.usages.len() * 2;
        }
        if state.usages.len() >= most {
            share(&state.crowd, None);
            return state.crowd.clone();
        }
        let usage = Arc::new(Usage::default());
        share(&usage, Some(name));
        state.usages.insert(name, usage.clone());
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Estimate;
    use tollgate_snapshot::model::Limits;

    const MOST: usize = FEW_NAMES;

    fn admits(names: &Names, name: u128, limit: u64, now: u64) -> bool {
        let limits = Limits { requests_per_minute: Some(limit), ..Limits::default() };
        names.usage_within(MOST, name, now, |_, _| {}).take(&limits, Estimate::default(), now).is_ok()
    }

    #[test]
    fn every_name_has_its_own_limit() {
        let names = Names::default();
        let (one, two) = (hash("one"), hash("two"));
        assert_ne!(one, two);
        assert_eq!([one, one, two, one].map(|name| admits(&names, name, 2, 1)), [true, true, true, false]);
    }

    #[test]
    fn names_that_find_no_room_share_one_limit_until_others_are_idle() {
        let names = Names::default();
        for name in 0..MOST as u128 {
            assert!(admits(&names, name, 2, 1));
        }
        let late = MOST as u128;
        assert_eq!([late, late + 1, late + 2].map(|name| admits(&names, name, 2, 30)), [true, true, false]);
        // Nobody of those who were there before is forgotten for them.
        assert_eq!([7, 7].map(|name| admits(&names, name, 2, 31)), [true, false]);
        // A minute later all but one are idle.
        assert!(admits(&names, late + 2, 2, 91));
        assert_eq!(names.0.lock().unwrap().usages.len(), 1);
    }

    #[test]
    fn a_name_with_a_call_under_way_is_not_forgotten() {
        let names = Names::default();
        let limits = Limits { parallel_requests: Some(1), ..Limits::default() };
        let usage = names.usage_within(MOST, 5, 1, |_, _| {});
        let permit = usage.take(&limits, Estimate::default(), 1).unwrap();
        drop(usage);
        for name in 100..100 + MOST as u128 {
            assert!(names.usage_within(MOST, name, 200, |_, _| {}).take(&limits, Estimate::default(), 200).is_ok());
        }
        assert!(names.usage_within(MOST, 5, 300, |_, _| {}).take(&limits, Estimate::default(), 300).is_err());
        drop(permit);
    }
}
