//! How much is granted at once.

/// Below this part of the limit, grants are small.
const AMPLE: i64 = 5;

/// Of `room`, for a replica that needs `needed` at least and has spent `burn` in about ten seconds; one of `replicas`.
/// While more than a fifth of the limit is left, an equal share of half of the room, so that replicas serve for minutes
/// without asking; below that what is spent in some seconds; what is needed in any case, as far as there is.
pub fn grant(limit: i64, room: i64, needed: i64, burn: i64, replicas: usize) -> i64 {
    grant_beside(0, limit, room, needed, burn, replicas)
}

/// The same for a replica that holds `idle` already without using it: only what it has less than its share.
pub fn grant_beside(idle: i64, limit: i64, room: i64, needed: i64, burn: i64, replicas: usize) -> i64 {
    if room <= 0 || needed <= 0 {
        return 0;
    }
    let replicas = i64::try_from(replicas.max(1)).unwrap_or(i64::MAX);
    let share = || room.saturating_add(idle) / replicas.saturating_mul(2);
    let generous = if is_ample(room, limit) { share() } else { burn };
    generous.saturating_sub(idle).max(needed).clamp(0, room)
}

/// Whether so much of the limit is left that grants are shares of it.
pub fn is_ample(room: i64, limit: i64) -> bool {
    room > limit / AMPLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_shares_while_there_is_much_and_exact_at_the_end() {
        for (limit, room, needed, burn, replicas, expected) in [
            (1000, 1000, 10, 0, 1, 500),
            (1000, 1000, 10, 0, 5, 100),
            (1000, 1000, 700, 0, 5, 700),
            (1000, 201, 10, 0, 2, 50),
            (1000, 200, 10, 0, 2, 10),
            (1000, 200, 10, 50, 2, 50),
            (1000, 200, 10, 5000, 2, 200),
            (1000, 5, 10, 0, 2, 5),
            (1000, 0, 10, 10, 2, 0),
            (1000, 500, 0, 10, 2, 0),
            (1000, -5, 10, 10, 2, 0),
        ] {
            assert_eq!(
                grant(limit, room, needed, burn, replicas),
                expected,
                "{limit} {room} {needed} {burn} {replicas}"
            );
        }
    }

    #[test]
    fn who_holds_its_share_gets_only_what_it_needs() {
        for (idle, room, needed, burn, replicas, expected) in [
            (500, 500, 1, 0, 1, 1),
            (100, 500, 1, 0, 1, 200),
            (0, 500, 1, 0, 1, 250),
            (100, 500, 1, 0, 3, 1),
            (80, 500, 1, 0, 3, 16),
            (100, 500, 300, 0, 3, 300),
            (40, 200, 1, 50, 2, 10),
            (60, 200, 1, 50, 2, 1),
        ] {
            let given = grant_beside(idle, 1000, room, needed, burn, replicas);
            assert_eq!(given, expected, "{idle} {room} {needed} {burn} {replicas}");
        }
    }
}
