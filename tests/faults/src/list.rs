//! The faults that must not cost anything, which test makes each, and what that test must have looked at. `tests/run chaos`
//! fails where one of them was not told of.

use std::fmt;

/// With what parts a fault is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Gateways, Redis and PostgreSQL are processes beside the test.
    Process,
    /// So are etcd, API server, operators and proxies.
    Plane,
    /// Pods on a node of Kubernetes.
    Node,
}

impl Level {
    pub const ALL: [Level; 3] = [Level::Process, Level::Plane, Level::Node];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Process => "process",
            Level::Plane => "plane",
            Level::Node => "node",
        })
    }
}

/// What a test must have looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shows {
    /// Invoice, limit and what was counted.
    pub money: bool,
    /// Every refusal.
    pub refusals: bool,
    /// Whether each attempt has its row.
    pub rows: bool,
}

const ALL: Shows = Shows { money: true, refusals: true, rows: true };
/// Rows went with their volume.
const MONEY: Shows = Shows { rows: false, ..ALL };
/// The ledger by itself: no client was watched.
const LEDGER: Shows = Shows { refusals: false, ..ALL };
/// Without a budget.
const ROWS: Shows = Shows { money: false, refusals: false, rows: true };

/// One of the list.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What tests name it by.
    pub id: &'static str,
    /// Which part it is done to.
    pub hurt: &'static str,
    pub what: &'static str,
    pub level: Level,
    pub test: &'static str,
    pub shows: Shows,
}

const fn process(id: &'static str, hurt: &'static str, what: &'static str, test: &'static str, shows: Shows) -> Fault {
    Fault { id, hurt, what, level: Level::Process, test, shows }
}

const fn plane(id: &'static str, hurt: &'static str, what: &'static str, test: &'static str) -> Fault {
    Fault { id, hurt, what, level: Level::Plane, test, shows: ALL }
}

const fn node(id: &'static str, hurt: &'static str, what: &'static str, test: &'static str) -> Fault {
    Fault { id, hurt, what, level: Level::Node, test, shows: MONEY }
}

const LEDGER_POINTS: &str = "kill_9_at_each_named_point_keeps_the_books";
const GATEWAY_POINTS: &str = "a_kill_loses_no_row_and_no_cent_and_never_passes_the_cap";

/// All of them, in the order of the table.
#[rustfmt::skip]
pub const FAULTS: &[Fault] = &[
    process("ledger-before-hold", "ledger", "`kill -9` before a hold", LEDGER_POINTS, LEDGER),
    process("ledger-held", "ledger", "`kill -9` after a hold, before the call is sent", LEDGER_POINTS, LEDGER),
    process("ledger-extended", "ledger", "`kill -9` when a stream has held more", LEDGER_POINTS, LEDGER),
    process("ledger-usage-seen", "ledger", "`kill -9` when usage was seen, before it is settled", LEDGER_POINTS, LEDGER),
    process("ledger-settled", "ledger", "`kill -9` after a settlement", LEDGER_POINTS, LEDGER),
    process("ledger-flushed", "ledger", "`kill -9` after a copy to SQLite", LEDGER_POINTS, LEDGER),
    process("ledger-random", "ledger", "`kill -9` at random, two threads", "kill_9_at_any_moment_loses_nothing_and_never_overspends", LEDGER),

    process("gateway-settled", "gateway", "`kill -9` when all calls are settled", GATEWAY_POINTS, ALL),
    process("gateway-before-headers", "gateway", "`kill -9` while the provider thinks", GATEWAY_POINTS, ALL),
    process("gateway-mid-stream", "gateway", "`kill -9` in mid stream", GATEWAY_POINTS, ALL),
    process("gateway-after-answers", "gateway", "`kill -9` right after answers", GATEWAY_POINTS, ALL),
    process("gateway-random", "gateway", "`kill -9` at random, 8 agents, a provider that fails", "kills_at_random_lose_no_row_and_no_cent_and_never_pass_the_cap", ALL),
    process("gateway-disk-full", "disk", "the gateway's disk is full, then is not", "a_full_disk_refuses_what_it_cannot_promise_and_recovers", ALL),
    process("gateway-start-disk-full", "disk", "`kill -9`, and a start on a full disk", "a_start_on_a_full_disk_fails_or_refuses_and_never_serves_for_nothing", ALL),

    process("redis-gateway-killed", "gateway", "`kill -9` of one of two that share a budget through Redis", "a_gateway_is_killed_beside_another", ALL),
    process("redis-killed-empty", "Redis", "`kill -9`, without a disk: all is forgotten", "redis_is_killed_and_forgets_everything", ALL),
    process("redis-killed-disk", "Redis", "`kill -9`, with `appendonly yes`", "redis_is_killed_and_remembers", ALL),
    process("redis-killed-before-answer", "Redis", "`kill -9` when its script has run, before the answer arrives; all is forgotten", "redis_is_killed_before_its_answer_arrives", ALL),
    process("redis-failover", "Redis", "failover to a replica that lacks the tail", "redis_fails_over_to_a_replica_that_lacks_the_tail", ALL),
    process("redis-partition", "network", "one of two gateways is cut off from Redis, what was said arrives late", "a_gateway_is_cut_off_from_redis", ALL),
    process("redis-silent", "Redis", "it is stopped (`SIGSTOP`) and goes on", "redis_is_silent_for_a_while", ALL),
    process("redis-disk-full", "disk", "the disk of Redis is full, then is not", "redis_has_no_space_left", ALL),

    process("writer-before-commit", "gateway's writer", "`kill -9` after COPY: before rows, between rows and sums, between sums", "the_writer_is_killed_after_copy_and_before_commit", ROWS),
    process("writer-before-news", "gateway's writer", "`kill -9` after COMMIT, before it hears of it", "the_writer_is_killed_after_commit_and_before_it_hears_of_it", ROWS),
    process("writer-random", "gateway's writer", "`kill -9` at random", "the_writer_is_killed_at_random", ROWS),
    process("postgres-tables", "PostgreSQL", "`kill -9` while its tables are made: before, and before the answer to COMMIT", "the_database_is_killed_while_its_tables_are_made", ROWS),
    process("postgres-before-commit", "PostgreSQL", "`kill -9` after COPY: before rows, between rows and sums, between sums", "the_database_is_killed_after_copy_and_before_commit", ROWS),
    process("postgres-before-answer", "PostgreSQL", "`kill -9` after COMMIT, before its answer", "the_database_is_killed_after_commit_and_before_the_answer", ROWS),
    process("postgres-random", "PostgreSQL", "`kill -9` at random while rows come", "the_database_is_killed_at_random_while_rows_come", ROWS),
    process("postgres-away", "PostgreSQL", "it is away while the gateway is killed twice", "the_gateway_serves_while_the_database_is_away_and_over_kills", ROWS),
    process("postgres-disk-full", "disk", "the disk of PostgreSQL is full, then is not", "the_database_has_no_space_left", ROWS),

    plane("operator-random", "operator", "`kill -9` at random, it starts again", "test_the_operator_is_killed_at_random"),
    plane("operator-before-news", "operator", "`kill -9` after its write of a grant, before it hears of it; another takes over", "test_the_operator_is_killed_after_its_write_and_before_it_hears_of_it"),
    plane("operator-before-answer", "operator", "`kill -9` after its write of a grant, before the proxy hears of it", "test_the_operator_is_killed_before_its_answer_arrives"),
    plane("operator-away", "operator", "it is away until all that was granted is spent", "test_the_operator_is_away"),
    plane("two-leaders", "operator", "two lead and grant all the time", "test_two_operators_lead_at_once"),
    plane("leader-frozen", "operator", "the leader is stopped (`SIGSTOP`), and wakes up beside the next", "test_a_leader_wakes_up_beside_the_next"),
    plane("proxy-killed", "proxy", "`kill -9` of one of two, and again when it has started", "test_a_proxy_is_killed"),
    plane("proxy-partition", "network", "a proxy is cut off from the operator, what was said arrives late", "test_a_proxy_is_cut_off_from_the_operator"),
    plane("apiserver-killed", "API server", "`kill -9`; it starts again", "test_the_api_server_is_killed"),
    plane("apiserver-silent", "API server", "it is stopped (`SIGSTOP`) and goes on", "test_the_api_server_is_silent"),

    node("pod-killed", "proxy", "a pod is gone with its volume", "test_it_holds_when_a_proxy_is_killed"),
    node("operators-away", "operator", "its pods are gone until all that was granted is spent", "test_without_an_operator_calls_go_on_within_what_was_granted"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_an_id_of_its_own() {
        let mut ids: Vec<&str> = FAULTS.iter().map(|fault| fault.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), FAULTS.len());
    }
}
