//! Many rounds of kills at random moments. Minutes, so only with `TOLLGATE_LONG=1`; says loudly when it does not run.
//! `TOLLGATE_SEED` repeats one run, `TOLLGATE_ROUNDS` says how many kills each seed has.

use tollgate_money_tests::kills::{Table, random_kills};

/// Seeds of a run, each with a gateway of its own.
const SEEDS: u64 = 24;

const ROUNDS: usize = 25;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_kills_under_load_lose_nothing() {
    if std::env::var("TOLLGATE_LONG").is_ok_and(|long| long == "1") {
        let rounds = number("TOLLGATE_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
        let first = fastrand::u64(..1 << 32);
        let seeds: Vec<u64> =
            number("TOLLGATE_SEED").map_or_else(|| (first..first + SEEDS).collect(), |seed| vec![seed]);
        let mut figures = Vec::new();
        for (at, seed) in seeds.into_iter().enumerate() {
            // Budgets that last, and budgets that are used up on the way.
            let limit = ["50", "0.5", "0.1"][at % 3];
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
