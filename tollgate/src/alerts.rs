//! Standalone, this process tells who wants to know that a budget passed a share of its limit: a line in the log, a metric,
//! a webhook. What was told is in `alerts.json` of the data folder. Of several processes that count in one Redis one tells:
//! whoever claims it there first. Runs beside the loader, never on the way of a request.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tollgate_alerts::{Crossing, Sender, Standing, State, deliver};
use tollgate_dataplane::core::Shared;
use tollgate_redis::Claims;
use tollgate_snapshot::Credential;
use tollgate_snapshot::model::{Budget, Period, Snapshot};

use crate::config::files::create_private;

/// How often budgets are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// After this a message is sent although Redis does not say who tells of it: twice is better than never. Seconds.
const UNCLAIMED: i64 = 60;

/// Never ends.
pub async fn run(data: &Path, shared: &Arc<Shared>, webhooks: &ArcSwap<Vec<Credential>>) {
    let mut store = Store::open(data.join("alerts.json"));
    let sender = Sender::new(true);
    let link = &shared.builder.persistent.redis;
    let mut claims = link.gateway().map(|gateway| Claims::new(gateway, store.owner.clone()));
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
        let mut crossed = Vec::new();
        for budget in watched.values() {
            // Who has not heard what others spent knows nothing of thresholds.
            for view in shared.builder.ledger.view_of(&budget.id).into_iter().filter(|view| view.is_known) {
                let is_rolling = matches!(budget.period, Period::Rolling { .. });
                let standing = Standing {
                    budget: &view.id,
                    unit: budget.unit,
                    spent: view.spent,
                    held: view.held,
                    refused: view.refused,
                    limit: view.limit,
                    period: if is_rolling { "" } else { &view.period_label },
                    resets_at: view.resets_at.filter(|_| !is_rolling),
                };
                if let (Some(claims), Some(address)) = (&mut claims, link.address()) {
                    for event in store.state.undone(&standing) {
                        if let Err(error) = claims.release(&address, &event).await {
                            tracing::warn!(%error, "that `{event}` may happen again is not known to others: {error}");
                        }
                    }
                }
                let crossings = store.state.look(&standing, &budget.thresholds, now);
                crossed.extend(crossings.into_iter().map(|crossing| (&budget.id, crossing)));
            }
        }
        store.state.retain(|id| is_watched(&watched, id));
        store.keep();
        for (of, Crossing { budget: id, percent, text, event }) in crossed {
            // Without an answer it is told here too.
            if let (Some(claims), Some(address)) = (&mut claims, link.address())
                && let Ok(false) = claims.claim(&address, &event).await
            {
                continue;
            }
            tracing::warn!(budget = %id, percent, "{text}");
            shared.status.passed(of, percent);
        }
        let mut due = store.state.due(now);
        if let Some(claims) = &mut claims {
            let mut mine = Vec::new();
            for delivery in due {
                let claimed = match link.address() {
                    Some(address) => claims.claim(&address, delivery.event()).await.ok(),
                    None => None,
                };
                match claimed {
                    Some(false) => store.state.settle(&delivery, true, now),
                    None if now < delivery.since + UNCLAIMED => {}
                    Some(true) | None => mine.push(delivery),
                }
            }
            store.keep();
            due = mine;
        }
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

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

/// The state, and the file that it is kept in.
struct Store {
    path: PathBuf,
    /// Who tells, among others that count in the same Redis.
    owner: String,
    state: State,
    kept: State,
}

/// What is in the file.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    owner: String,
    #[serde(flatten)]
    state: State,
}

impl Store {
    /// What cannot be read was not told: better twice than never.
    fn open(path: PathBuf) -> Store {
        let Kept { owner, state } = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(%error, "`{}` cannot be read; who was told of budgets may be told again", path.display());
                Kept::default()
            }),
            Err(_) => Kept::default(),
        };
        let owner = if owner.is_empty() { format!("{:016x}", random()) } else { owner };
        Store { path, owner, kept: state.clone(), state }
    }

    /// Writes it down where it changed. Where the disk refuses, it is tried again at the next look.
    fn keep(&mut self) {
        if self.state == self.kept {
            return;
        }
        let partial = self.path.with_extension("partial");
        let write = || -> std::io::Result<()> {
            let mut file = create_private(&partial)?;
            let kept = Kept { owner: self.owner.clone(), state: self.state.clone() };
            file.write_all(&serde_json::to_vec(&kept)?)?;
            file.sync_data()?;
            std::fs::rename(&partial, &self.path)
        };
        match write() {
            Ok(()) => self.kept = self.state.clone(),
            Err(error) => tracing::warn!(%error, "cannot write `{}`: {error}", self.path.display()),
        }
    }
}
