//! What a replica remembers of answers. It is sent along with reports: a server that has lost writes learns of it, and
//! gets back what was lost.

use std::collections::HashMap;

use tollgate_allocator::{Answer, ReplicaId, Report};

/// As long as the script keeps books: afterwards nobody asks for them. Seconds.
const KEEP_AFTER: i64 = 86_400;

/// One account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AccountKey {
    replica: ReplicaId,
    budget: String,
    starts_at: i64,
    ends_at: i64,
    reset_token: Option<String>,
}

/// What is remembered of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    pub granted: i64,
    /// Under which epoch of the shard the account was told.
    pub epoch: i64,
    /// Of the last answer.
    pub seq: i64,
    /// Of the last answer that was given without doubt, and what others were charged then.
    pub claim_seq: i64,
    pub claim_elsewhere: i64,
    /// The most that was ever told to be given back. The server may know less.
    sent_returned: i64,
    /// Used, as the server is known to know.
    answered_used: i64,
    counts_until: i64,
}

impl Remembered {
    /// At least what the server may have charged the account when it answered somebody last.
    pub fn was(&self) -> i64 {
        self.granted.saturating_sub(self.sent_returned).max(self.answered_used)
    }
}

/// All accounts.
#[derive(Clone, Debug, Default)]
pub struct Memory(HashMap<AccountKey, Remembered>);

impl Memory {
    /// What is known before this report is sent.
    pub fn of(&self, replica: &ReplicaId, report: &Report) -> Remembered {
        self.0.get(&key(replica, report)).copied().unwrap_or_default()
    }

    /// The account was granted so much elsewhere.
    pub fn granted(&mut self, replica: &ReplicaId, report: &Report, granted: i64) {
        let known = Remembered { granted, counts_until: report.span.counts_until, ..Remembered::default() };
        self.0.insert(key(replica, report), known);
    }

    /// The report goes out.
    pub fn sent(&mut self, replica: &ReplicaId, report: &Report) {
        if let Some(known) = self.0.get_mut(&key(replica, report)) {
            known.sent_returned = known.sent_returned.max(report.returned);
        }
    }

    /// The answer came, under this epoch.
    pub fn answered(&mut self, replica: &ReplicaId, report: &Report, answer: &Answer, place: Place) {
        let key = key(replica, report);
        if answer.closed {
            // It may be added up: what was granted is not to be looked for any more.
            self.0.remove(&key);
            return;
        }
        let Place { epoch, seq, doubt } = place;
        let known = self.0.entry(key).or_default();
        known.granted = known.granted.max(answer.granted);
        known.sent_returned = known.sent_returned.max(report.returned);
        known.answered_used = known.answered_used.max(report.used);
        known.epoch = epoch;
        known.seq = known.seq.max(seq);
        known.counts_until = report.span.counts_until;
        if !doubt {
            known.claim_seq = seq;
            known.claim_elsewhere = answer.charged_elsewhere;
        }
    }

    /// Forgets accounts whose books are gone. `now`: the server's, unix seconds.
    pub fn forget(&mut self, now: i64) {
        self.0.retain(|_, known| known.counts_until.saturating_add(KEEP_AFTER) >= now);
    }
}

/// Where in the server's history an answer stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub epoch: i64,
    pub seq: i64,
    pub doubt: bool,
}

fn key(replica: &ReplicaId, report: &Report) -> AccountKey {
    AccountKey {
        replica: replica.clone(),
        budget: report.budget.clone(),
        starts_at: report.span.starts_at,
        ends_at: report.span.ends_at,
        reset_token: report.reset_token.clone(),
    }
}
