//! How much is granted at once.

/// Below this part of the limit, grants are small.
const AMPLE: i64 = 5;

/// Of `room`, for a replica that needs `needed` at least, has spent `burn` in about ten seconds and holds `idle` already
/// without using it; one of `replicas`. While more than a fifth of the limit is left, what it lacks to an equal share of half
/// of what nobody else has, so that replicas serve for minutes without asking; below that, to what is spent in some seconds;
/// what is needed in any case, as far as there is.
pub fn grant(limit: i64, room: i64, needed: i64, burn: i64, replicas: usize, idle: i64) -> i64 {
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
        for (room, needed, burn, replicas, idle, expected) in [
            (1000, 10, 0, 1, 0, 500),
            (1000, 10, 0, 5, 0, 100),
            (1000, 700, 0, 5, 0, 700),
            (201, 10, 0, 2, 0, 50),
            (200, 10, 0, 2, 0, 10),
            (200, 10, 50, 2, 0, 50),
            (200, 10, 5000, 2, 0, 200),
            (5, 10, 0, 2, 0, 5),
            (0, 10, 10, 2, 0, 0),
            (500, 0, 10, 2, 0, 0),
            (-5, 10, 10, 2, 0, 0),
            // Who holds its share gets only what it needs.
            (500, 1, 0, 1, 500, 1),
            (500, 1, 0, 1, 100, 200),
            (500, 1, 0, 1, 0, 250),
            (500, 1, 0, 3, 100, 1),
            (500, 1, 0, 3, 80, 16),
            (500, 300, 0, 3, 100, 300),
            (200, 1, 50, 2, 40, 10),
            (200, 1, 50, 2, 60, 1),
        ] {
            let given = grant(1000, room, needed, burn, replicas, idle);
            assert_eq!(given, expected, "{room} {needed} {burn} {replicas} {idle}");
        }
    }
}
