//! What a test tells of a fault: one line of JSON, appended to a file. I/O.

use std::io::Write;

use serde::{Deserialize, Serialize};

/// Environment variable: the file. Tests that run without it tell nobody. `tests/cluster/harness/faults.py` writes the same.
const FILE: &str = "TOLLGATE_FAULTS";

/// A fault that was made, and what was found afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// [`crate::Fault::id`]
    pub fault: String,
    /// How often it was made.
    pub times: u64,
    /// Attempts that providers saw, or that were made where the ledger runs by itself.
    pub calls: u64,
    /// Where there was a budget.
    pub money: Option<Money>,
    /// Attempts without a row; `None` where rows were not looked at.
    pub rows_lost: Option<u64>,
}

/// A Hard budget at the end. Nano-USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    pub limit: i64,
    /// By the provider's own invoice.
    pub billed: i64,
    /// What the budget says is spent.
    pub counted: i64,
    /// Calls that were refused as `budget_exhausted` although what was counted left room for them; `None` where nobody
    /// was watched for it.
    pub false_refusals: Option<u64>,
    /// Calls that were told 503 `budget_unavailable` while the fault lasted.
    pub unavailable: u64,
}

impl Money {
    /// What was billed above the limit.
    pub fn overspend(&self) -> i64 {
        (self.billed - self.limit).max(0)
    }

    /// What was counted and not billed.
    pub fn over_count(&self) -> i64 {
        self.counted - self.billed
    }
}

impl Run {
    /// A fault that was made once.
    pub fn of(fault: &str, calls: usize) -> Run {
        Run { fault: fault.to_owned(), times: 1, calls: calls as u64, money: None, rows_lost: None }
    }

    pub fn times(self, times: usize) -> Run {
        Run { times: times as u64, ..self }
    }

    pub fn money(self, money: Money) -> Run {
        Run { money: Some(money), ..self }
    }

    pub fn rows_lost(self, rows: usize) -> Run {
        Run { rows_lost: Some(rows as u64), ..self }
    }

    /// Tells whoever collects. To be called before what was found is asserted, so that the table has it either way.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn tell(&self) {
        let Some(path) = std::env::var_os(FILE) else { return };
        let line = serde_json::to_string(self).expect("names and numbers are JSON") + "\n";
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // In one write: tests run beside each other.
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
