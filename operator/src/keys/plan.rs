//! What to do with a generated key, from what its resource says, what is remembered of it and what its Secret holds.
//! Pure: time is an argument.
//!
//! A new key is remembered (status, tables) before it is written into the Secret, beside the one before: whoever reads
//! the Secret finds a key that works already, and a crash in between leaves the old one working. That there is a
//! previous key means that the Secret may still have to be written.

use tollgate_crds::{KeySecret, Rotation};
use tollgate_snapshot::KeyHash;

use crate::facts::KeyFact;

/// How long a replaced key works where nothing says so, in seconds.
const USUAL_OVERLAP: i64 = 3_600;

/// What a Secret is to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Missing,
    /// It is there and not ours.
    Foreign,
    /// Ours, without the entry.
    Empty,
    Holds(KeyHash),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// Make the first key, and the Secret with it.
    Create,
    /// Our Secret holds a key that nothing remembers: it is the key.
    Adopt(KeyHash),
    /// Make a new key; the one before works until then. `None`: there was none.
    Replace(Option<(KeyHash, i64)>),
    /// The previous key has ended.
    ForgetPrevious,
    /// The Secret is somebody else's.
    Refuse,
}

/// What a resource says about its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub secret: KeySecret,
    /// Seconds after which a key is replaced.
    pub every: Option<i64>,
    /// Seconds that a replaced key works on.
    pub overlap: i64,
    /// The annotation that asks for another key.
    pub request: Option<String>,
}

impl Wish {
    /// A rotation that cannot be read is none.
    pub fn new(secret: &KeySecret, rotation: Option<&Rotation>, request: Option<&str>) -> Wish {
        let seconds = |text: &tollgate_crds::DurationText| {
            text.get().ok().map(|duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
        };
        Wish {
            secret: secret.clone(),
            every: rotation.and_then(|rotation| seconds(&rotation.every)).filter(|every| *every > 0),
            overlap: rotation.and_then(|rotation| seconds(&rotation.overlap)).unwrap_or(USUAL_OVERLAP),
            request: request.map(str::to_owned),
        }
    }

    /// When the key is to be replaced by itself. Unix seconds.
    fn rotates_at(&self, known: &KeyFact) -> Option<i64> {
        Some(known.made_at?.saturating_add(self.every?))
    }

    fn is_asked_for(&self, known: &KeyFact) -> bool {
        self.request.is_some() && self.request != known.request
    }

    /// What to do.
    pub fn step(&self, known: &KeyFact, found: Found, now: i64) -> Step {
        let Some(hash) = known.hash else {
            return match found {
                Found::Missing => Step::Create,
                Found::Foreign => Step::Refuse,
                Found::Empty => Step::Replace(None),
                Found::Holds(found) => Step::Adopt(found),
            };
        };
        let replace = |before: KeyHash| Step::Replace(Some((before, now.saturating_add(self.overlap))));
        match found {
            Found::Foreign => Step::Refuse,
            // Another name is wished for, and whoever reads the Secret of before goes on for a while.
            Found::Missing if known.secret.as_ref().is_some_and(|name| *name != self.secret.name) => replace(hash),
            // Somebody deleted it, perhaps because it leaked.
            Found::Missing => Step::Replace(Some((hash, now))),
            Found::Empty => replace(hash),
            Found::Holds(found) if found == hash => {
                if self.is_asked_for(known) || self.rotates_at(known).is_some_and(|at| at <= now) {
                    replace(hash)
                } else if known.previous.is_some_and(|(_, ends_at)| ends_at <= now) {
                    Step::ForgetPrevious
                } else {
                    Step::Nothing
                }
            }
            // A replacement that was not finished: nobody has the key that is remembered.
            Found::Holds(found) if known.previous.is_some_and(|(previous, _)| previous == found) => replace(found),
            // Somebody wrote into our Secret; that may be any text, and is no key.
            Found::Holds(_) => replace(hash),
        }
    }

    /// When to look at the key next, Unix seconds. `None`: when something changes. `first`: nothing of it was looked at
    /// since this process leads.
    pub fn next(&self, known: &KeyFact, first: bool, now: i64) -> Option<i64> {
        let moved = known.secret.as_ref().is_some_and(|name| *name != self.secret.name);
        if known.hash.is_none() || moved || self.is_asked_for(known) || (first && known.previous.is_some()) {
            return Some(now);
        }
        let ends_at = known.previous.map(|(_, ends_at)| ends_at);
        [self.rotates_at(known), ends_at].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_crds::{DurationText, KeyPolicy};

    const NOW: i64 = 1_000_000;

    fn hash(text: &str) -> KeyHash {
        KeyHash::of(text.as_bytes())
    }

    fn wish(every: Option<&str>, overlap: &str, request: Option<&str>) -> Wish {
        let secret = KeySecret { name: "ci".to_owned(), key: "key".to_owned(), policy: KeyPolicy::Generate };
        let rotation =
            every.map(|every| Rotation { every: DurationText::new(every), overlap: DurationText::new(overlap) });
        Wish::new(&secret, rotation.as_ref(), request)
    }

    /// The key `a` in the Secret `ci`, made a hundred seconds ago.
    fn known() -> KeyFact {
        KeyFact { hash: Some(hash("a")), made_at: Some(NOW - 100), secret: Some("ci".to_owned()), ..KeyFact::default() }
    }

    #[test]
    fn a_first_key_is_made_once() {
        let wish = wish(None, "", None);
        let step = |found| wish.step(&KeyFact::default(), found, NOW);
        assert_eq!(step(Found::Missing), Step::Create);
        assert_eq!(step(Found::Holds(hash("a"))), Step::Adopt(hash("a")), "a crash after the Secret was made");
        assert_eq!(step(Found::Empty), Step::Replace(None));
        assert_eq!(step(Found::Foreign), Step::Refuse);
        assert_eq!(wish.next(&KeyFact::default(), true, NOW), Some(NOW));
        assert_eq!(wish.step(&known(), Found::Holds(hash("a")), NOW), Step::Nothing);
        assert_eq!(wish.next(&known(), true, NOW), None, "no Secret is read at a restart");
    }

    #[test]
    fn a_key_is_replaced_when_its_time_has_come_and_the_old_one_goes_on() {
        let wish = wish(Some("100s"), "30s", None);
        let mut known = known();
        assert_eq!(wish.next(&known, true, NOW), Some(NOW));
        assert_eq!(wish.step(&known, Found::Holds(hash("a")), NOW - 1), Step::Nothing);
        assert_eq!(wish.step(&known, Found::Holds(hash("a")), NOW), Step::Replace(Some((hash("a"), NOW + 30))));

        known = KeyFact { hash: Some(hash("b")), previous: Some((hash("a"), NOW + 30)), made_at: Some(NOW), ..known };
        assert_eq!(wish.next(&known, false, NOW), Some(NOW + 30));
        assert_eq!(wish.step(&known, Found::Holds(hash("b")), NOW + 29), Step::Nothing);
        assert_eq!(wish.step(&known, Found::Holds(hash("b")), NOW + 30), Step::ForgetPrevious);
    }

    #[test]
    fn a_replacement_that_was_not_finished_is_made_again() {
        let wish = wish(None, "", None);
        let known = KeyFact { hash: Some(hash("b")), previous: Some((hash("a"), NOW + 30)), ..known() };
        assert_eq!(wish.next(&known, true, NOW), Some(NOW), "it is looked at after a restart");
        let step = wish.step(&known, Found::Holds(hash("a")), NOW);
        assert_eq!(step, Step::Replace(Some((hash("a"), NOW + 3_600))));
    }

    #[test]
    fn a_new_value_of_the_annotation_asks_once() {
        let wish = wish(None, "", Some("2026-11-28"));
        assert_eq!(wish.next(&known(), false, NOW), Some(NOW));
        let step = |request: &str| {
            let known = KeyFact { request: Some(request.to_owned()), ..known() };
            wish.step(&known, Found::Holds(hash("a")), NOW)
        };
        assert_eq!(step("2025-01-01"), Step::Replace(Some((hash("a"), NOW + 3_600))));
        assert_eq!(step("2026-11-28"), Step::Nothing);
    }

    #[test]
    fn a_deleted_secret_ends_its_key_and_a_renamed_one_does_not() {
        let wish = wish(None, "", None);
        assert_eq!(wish.step(&known(), Found::Missing, NOW), Step::Replace(Some((hash("a"), NOW))));
        let renamed = KeyFact { secret: Some("before".to_owned()), ..known() };
        assert_eq!(wish.step(&renamed, Found::Missing, NOW), Step::Replace(Some((hash("a"), NOW + 3_600))));
        assert_eq!(wish.next(&renamed, true, NOW), Some(NOW));
    }

    #[test]
    fn what_somebody_wrote_into_our_secret_is_no_key() {
        let wish = wish(None, "", None);
        let step = wish.step(&known(), Found::Holds(hash("password")), NOW);
        assert_eq!(step, Step::Replace(Some((hash("a"), NOW + 3_600))));
    }
}
