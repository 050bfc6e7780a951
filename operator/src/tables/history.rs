//! Which generation of a gateway's tables first held an object as it is now. Objects remember the round that they changed
//! in; here is which generation that round became. So an edit of one object does not make others look unprogrammed.

/// Generations and the last round of each, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: Vec<(u64, u64)>,
}

/// More are never of use: proxies that are so far behind run none of them.
const MOST: usize = 1_024;

impl History {
    /// The tables of `round` are those of `generation`.
    pub fn published(&mut self, round: u64, generation: u64) {
        match self.entries.last_mut() {
            Some((last, same)) if *same == generation => *last = round,
            _ => self.entries.push((round, generation)),
        }
        if self.entries.len() > MOST {
            self.entries.drain(..MOST / 2);
        }
    }

    /// The first generation that holds what changed in `round`; of what is older than the memory here, the oldest that
    /// is known. `None`: that round is not published yet.
    pub fn generation(&self, round: u64) -> Option<u64> {
        let at = self.entries.partition_point(|(last, _)| *last < round);
        self.entries.get(at).map(|(_, generation)| *generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_in_the_generation_of_its_round() {
        let mut history = History::default();
        assert_eq!(history.generation(1), None);
        history.published(1, 7);
        // Nothing changed in rounds 2 and 3.
        history.published(3, 7);
        history.published(4, 8);
        // 5 could not be published, and was with 6.
        history.published(6, 9);
        let expected = [(0, 7), (1, 7), (2, 7), (3, 7), (4, 8), (5, 9), (6, 9)];
        for (round, generation) in expected {
            assert_eq!(history.generation(round), Some(generation), "{round}");
        }
        assert_eq!(history.generation(7), None);
    }
}
