//! Everything the mock remembers: scripts, gates, requests seen, the invoice. One lock, never held across an await;
//! every change beats a pulse, so that tests wait for facts instead of sleeping.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::invoice::{CancelBilling, InvoiceRow};
use crate::script::Step;

/// Memory that the remembered request bodies may take; the oldest go first. Bytes.
const SEEN_BYTES: usize = 64 << 20;

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeenRequest {
    pub method: String,
    /// Path without the query, as sent.
    pub path: String,
    /// Query without the question mark; empty if none.
    pub query: String,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    #[serde(serialize_with = "as_text")]
    pub body: Bytes,
}

impl SeenRequest {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn as_text<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(body))
}

/// What is remembered.
#[derive(Default)]
pub(crate) struct Books {
    pub scripts: HashMap<String, VecDeque<Step>>,
    pub open_gates: HashSet<String>,
    /// Requests waiting at each gate now.
    pub at_gate: HashMap<String, usize>,
    pub seen: VecDeque<SeenRequest>,
    seen_bytes: usize,
    /// Requests since the last clear, also those already forgotten.
    pub seen_total: usize,
    pub invoice: VecDeque<InvoiceRow>,
    /// Rows since the last clear, also those already forgotten.
    pub invoice_total: usize,
    pub in_flight: usize,
    pub next_seq: u64,
    /// Hashes of the prompt prefixes that Anthropic requests asked to cache.
    pub cached_prefixes: HashSet<u64>,
}

/// The mock's shared state.
pub(crate) struct State {
    books: Mutex<Books>,
    pulse: watch::Sender<u64>,
    stopping: watch::Sender<bool>,
    pub cancel_billing: CancelBilling,
    /// The only key accepted; `None`: any, or none.
    pub key: Option<String>,
    pub models: Vec<String>,
    keep_requests: usize,
    keep_invoice: usize,
}

impl State {
    pub fn new(
        cancel_billing: CancelBilling,
        key: Option<String>,
        models: Vec<String>,
        keep_requests: usize,
        keep_invoice: usize,
    ) -> State {
        State {
            books: Mutex::default(),
            pulse: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            cancel_billing,
            key,
            models,
            keep_requests,
            keep_invoice,
        }
    }

    /// Reads what is remembered.
    pub fn read(&self) -> MutexGuard<'_, Books> {
        // A panic while the lock was held belongs to a failing test; the books are still whole entries.
        self.books.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what is remembered and wakes who waits for it.
    pub fn change<T>(&self, change: impl FnOnce(&mut Books) -> T) -> T {
        let value = change(&mut self.read());
        self.pulse.send_modify(|beat| *beat = beat.wrapping_add(1));
        value
    }

    /// Waits until `found` finds something.
    pub async fn until<T>(&self, mut found: impl FnMut(&Books) -> Option<T>) -> T {
        let mut pulse = self.pulse.subscribe();
        loop {
            if let Some(value) = found(&self.read()) {
                return value;
            }
            pulse.changed().await.expect("the sender lives in self");
        }
    }

    /// Notes a request that is now being served, and gives its number.
    pub fn open_call(&self, request: SeenRequest) -> u64 {
        let (keep, weight) = (self.keep_requests, request.body.len());
        self.change(|books| {
            books.seen_bytes += weight;
            books.seen.push_back(request);
            while books.seen.len() > keep || (books.seen_bytes > SEEN_BYTES && books.seen.len() > 1) {
                let Some(oldest) = books.seen.pop_front() else { break };
                books.seen_bytes -= oldest.body.len();
            }
            books.seen_total += 1;
            books.in_flight += 1;
            books.next_seq += 1;
            books.next_seq
        })
    }

    /// Notes that a request ended.
    pub fn close_call(&self, row: InvoiceRow) {
        let keep = self.keep_invoice;
        self.change(|books| {
            books.invoice.push_back(row);
            while books.invoice.len() > keep {
                books.invoice.pop_front();
            }
            books.invoice_total += 1;
            books.in_flight -= 1;
        });
    }

    /// Takes the next step for a request: by model, else by path, else of `*`.
    pub fn next_step(&self, model: &str, path: &str) -> Option<Step> {
        self.change(|books| [model, path, "*"].iter().find_map(|matcher| take(&mut books.scripts, matcher)))
    }

    /// Takes the next step that was scripted for exactly this path.
    pub fn next_step_of_path(&self, path: &str) -> Option<Step> {
        self.change(|books| take(&mut books.scripts, path))
    }

    /// Waits at a gate. `false`: the mock stops.
    pub async fn pass_gate(&self, name: &str) -> bool {
        let _waiting = AtGate::new(self, name);
        tokio::select! {
            () = self.until(|books| books.open_gates.contains(name).then_some(())) => true,
            () = self.stopped() => false,
        }
    }

    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    pub async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        stopping.wait_for(|stopping| *stopping).await.expect("the sender lives in self");
    }

    pub fn clear_scripts(&self) {
        self.change(|books| books.scripts.clear());
    }

    pub fn clear_invoice(&self) {
        self.change(|books| {
            books.invoice.clear();
            books.invoice_total = 0;
        });
    }

    pub fn clear_requests(&self) {
        self.change(|books| {
            books.seen.clear();
            books.seen_bytes = 0;
            books.seen_total = 0;
        });
    }
}

fn take(scripts: &mut HashMap<String, VecDeque<Step>>, matcher: &str) -> Option<Step> {
    let queue = scripts.get_mut(matcher)?;
    loop {
        let next = queue.front_mut()?;
        if next.repeat == 0 {
            queue.pop_front();
            continue;
        }
        next.repeat -= 1;
        let step = next.clone();
        if step.repeat == 0 {
            queue.pop_front();
        }
        return Some(step);
    }
}

/// A request waiting at a gate; counted while it lives.
struct AtGate<'a> {
    state: &'a State,
    name: &'a str,
}

impl<'a> AtGate<'a> {
    fn new(state: &'a State, name: &'a str) -> AtGate<'a> {
        state.change(|books| *books.at_gate.entry(name.to_string()).or_default() += 1);
        AtGate { state, name }
    }
}

impl Drop for AtGate<'_> {
    fn drop(&mut self) {
        self.state.change(|books| {
            if let Some(count) = books.at_gate.get_mut(self.name) {
                *count -= 1;
            }
        });
    }
}
