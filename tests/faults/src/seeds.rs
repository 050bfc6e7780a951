//! Random histories, each made of one seed. A run takes new seeds; a history that fails says the command that repeats it:
//! `tests/run replay SEED PACKAGE TEST`, which sets `TOLLGATE_SEED`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

/// Environment variable: the only seed to be run.
const SEED: &str = "TOLLGATE_SEED";

/// Environment variable: so many times the usual number of histories.
const TIMES: &str = "TOLLGATE_TIMES";

/// How often a value that fails may be made smaller: seconds, or a minute where each try writes files.
const SMALLER: u32 = 1_000;

/// A test, as `cargo test` is told of it. Made by [`crate::this_test`].
#[derive(Clone, Copy, Debug)]
pub struct Test {
    pub package: &'static str,
    pub name: &'static str,
}

/// The [`seeds::Test`](crate::seeds::Test) whose function this is written in.
#[macro_export]
macro_rules! this_test {
    () => {{
        fn here() {}
        $crate::seeds::Test { package: env!("CARGO_PKG_NAME"), name: $crate::seeds::name_of(&here) }
    }};
}

/// The function that a function is written in, without its modules.
#[doc(hidden)]
pub fn name_of<F>(inner: &F) -> &'static str {
    let path = std::any::type_name_of_val(inner).trim_end_matches("::here").trim_end_matches("::{{closure}}");
    path.rsplit("::").next().unwrap_or(path)
}

impl Test {
    /// What a person types to see a failure again.
    pub fn replay(&self, seed: u64) -> String {
        format!("tests/run replay {seed} {} {}", self.package, self.name)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The seeds of this run: `count` new ones, or the one that is to be replayed.
pub fn seeds(count: u64) -> Vec<u64> {
    if let Some(seed) = number(SEED) {
        return vec![seed];
    }
    // Short enough to be typed.
    let first = fastrand::u64(..1 << 32);
    (first..first + count * number(TIMES).unwrap_or(1)).collect()
}

/// Runs a history for each of so many seeds.
///
/// # Panics
/// One fails; the command that repeats it is in the output.
pub fn histories(test: Test, count: u64, mut history: impl FnMut(u64)) {
    for seed in seeds(count) {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| history(seed))) {
            eprintln!("to see it again: {}", test.replay(seed));
            resume_unwind(cause);
        }
    }
}

/// Runs a property for so many values, each made of a seed of its own. What fails is made smaller.
///
/// # Panics
/// One fails; the command that repeats it is in the text.
pub fn property<S: Strategy>(test: Test, cases: u64, values: &S, holds: impl Fn(S::Value) -> TestCaseResult) {
    for seed in seeds(cases) {
        if let Err(error) = try_one(seed, values, &holds) {
            panic!("{error}\nto see it again: {}", test.replay(seed));
        }
    }
}

/// With the value that a seed makes.
fn try_one<S: Strategy>(seed: u64, values: &S, holds: impl Fn(S::Value) -> TestCaseResult) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // What the value is made of is told, so no file is needed.
    let config = Config { cases: 1, max_shrink_iters: SMALLER, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    runner.run(values, holds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_knows_its_name() {
        assert_eq!(this_test!().replay(7), "tests/run replay 7 tollgate-faults a_test_knows_its_name");
    }

    #[test]
    fn what_fails_is_told_with_its_seed_and_fails_again_with_it() {
        let test = Test { package: "package", name: "test" };
        let values = proptest::collection::vec(0u32..1000, 1..20);
        let holds = |values: Vec<u32>| match values.iter().all(|value| *value < 700) {
            true => Ok(()),
            false => Err(proptest::test_runner::TestCaseError::fail("too large")),
        };
        let failed = catch_unwind(AssertUnwindSafe(|| property(test, 200, &values, holds))).expect_err("it fails");
        let text = failed.downcast_ref::<String>().expect("a text");
        let seed = text.split("tests/run replay ").nth(1).and_then(|rest| rest.split(' ').next());
        let seed: u64 = seed.expect("the command").parse().expect("a seed");
        assert!(text.contains("minimal failing input") && text.ends_with("package test"), "{text}");
        let again = try_one(seed, &values, holds).expect_err("the same value fails again");
        assert!(text.starts_with(&again), "{text}\n{again}");
    }
}
