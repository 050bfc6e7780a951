//! Many rounds of kills at random moments. Minutes, so only with `TOLLGATE_LONG=1`; says loudly when it does not run.
//! A failure says how to see it again; `TOLLGATE_ROUNDS` is how many kills each seed has.

use tollgate_faults::{seeds, this_test};
use tollgate_money_tests::kills::{Table, random_kills};

/// Seeds of a run, each with a gateway of its own.
const SEEDS: u64 = 24;

const ROUNDS: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_kills_under_load_lose_nothing() {
    if std::env::var("TOLLGATE_LONG").is_ok_and(|long| long == "1") {
        let rounds = std::env::var("TOLLGATE_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number of kills"));
        let mut figures = Vec::new();
        for seed in seeds::seeds(SEEDS) {
            // Budgets that last, and budgets that are used up on the way.
            let limit = ["50", "0.5", "0.1"][(seed % 3) as usize];
            println!("TOLLGATE_LONG=1 {}", this_test!().replay(seed));
            figures.push(random_kills(seed, rounds, limit).await);
            println!("{}", Table(&figures));
        }
        for figures in &figures {
            assert_eq!((figures.overspend(), figures.false_refusals), (0, 0), "{figures:?}");
        }
    } else {
        eprintln!("SKIPPED: hundreds_of_kills_under_load_lose_nothing takes minutes; run it with TOLLGATE_LONG=1");
    }
}
