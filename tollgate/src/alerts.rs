//! Standalone, this process tells who wants to know that a budget passed a share of its limit: a line in the log, a metric,
//! a webhook. What was told is in `alerts.json` of the data folder. Runs beside the loader, never on the way of a request.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tollgate_alerts::{Crossing, Sender, Standing, State, deliver};
use tollgate_dataplane::core::Shared;
use tollgate_snapshot::Credential;
use tollgate_snapshot::model::{Budget, Period, Snapshot};

use crate::config::files::create_private;

/// How often budgets are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Never ends.
pub async fn run(data: &Path, shared: &Arc<Shared>, webhooks: &ArcSwap<Vec<Credential>>) {
    let mut store = Store::open(data.join("alerts.json"));
    let sender = Sender::new(true);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = jiff::Timestamp::now().as_second();
        let tables = shared.tables.load_full();
        let watched = watched(&tables.snapshot);
        if watched.is_empty() && store.state == State::default() {
            continue;
        }
        for budget in watched.values() {
            for view in shared.builder.ledger.view_of(&budget.id) {
                let is_rolling = matches!(budget.period, Period::Rolling { .. });
                let standing = Standing {
                    budget: &view.id,
                    unit: budget.unit,
                    spent: view.spent,
                    limit: view.limit,
                    period: if is_rolling { "" } else { &view.period_label },
                    resets_at: view.resets_at.filter(|_| !is_rolling),
                };
                for Crossing { budget: id, percent, text } in store.state.look(&standing, &budget.thresholds, now) {
                    tracing::warn!(budget = %id, percent, "{text}");
                    shared.status.passed(&budget.id, percent);
                }
            }
        }
        store.state.retain(|id| is_watched(&watched, id));
        store.keep();
        let due = store.state.due(now);
        if due.is_empty() {
            continue;
        }
        let known = webhooks.load_full();
        let url = |id: &str| known.iter().find(|webhook| *webhook.id == *id).map(|webhook| webhook.value.clone());
        for (delivery, delivered) in deliver(&sender, due, url).await {
            store.state.settle(&delivery, delivered, now);
        }
        store.keep();
    }
}

/// Budgets with thresholds, by id. One account may have several rows.
fn watched(snapshot: &Snapshot) -> BTreeMap<&str, &Budget> {
    snapshot.budgets.iter().filter(|row| !row.thresholds.is_empty()).map(|row| (&*row.id, row)).collect()
}

/// Also members that calls bring.
fn is_watched(watched: &BTreeMap<&str, &Budget>, id: &str) -> bool {
    let of_members = || Some(&id[..id.match_indices('/').nth(2)?.0]);
    watched.contains_key(id) || of_members().is_some_and(|id| watched.get(id).is_some_and(|row| row.per.is_some()))
}

/// The state, and the file that it is kept in.
struct Store {
    path: PathBuf,
    state: State,
    kept: State,
}

impl Store {
    /// What cannot be read was not told: better twice than never.
    fn open(path: PathBuf) -> Store {
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(%error, "`{}` cannot be read; who was told of budgets may be told again", path.display());
                State::default()
            }),
            Err(_) => State::default(),
        };
        Store { path, kept: state.clone(), state }
    }

    /// Writes it down where it changed. Where the disk refuses, it is tried again at the next look.
    fn keep(&mut self) {
        if self.state == self.kept {
            return;
        }
        let partial = self.path.with_extension("partial");
        let write = || -> std::io::Result<()> {
            let mut file = create_private(&partial)?;
            file.write_all(&serde_json::to_vec(&self.state)?)?;
            file.sync_data()?;
            std::fs::rename(&partial, &self.path)
        };
        match write() {
            Ok(()) => self.kept = self.state.clone(),
            Err(error) => tracing::warn!(%error, "cannot write `{}`: {error}", self.path.display()),
        }
    }
}
