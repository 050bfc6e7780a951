//! What every object's status should say, and the writes that make it so. `condition` says what keeps an object from
//! working, `kinds` what else its status shows, `queue` writes what changed.

mod condition;
mod index;
mod kinds;
mod members;
mod overshoot;
mod queue;
mod reach;
#[cfg(test)]
mod tests;
mod text;
mod used;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tollgate_crds::{ConditionStatus, TimestampText};
use tollgate_snapshot::compile::{Document, Gateways};
use tollgate_snapshot::{Finding, GatewayName, ObjectRef, Reason, Severity};

pub use self::condition::{ACCEPTED, PROGRAMMED};
use self::condition::{Common, Running};
use self::index::Index;
use self::members::Members;
use self::overshoot::Overshoots;
use self::queue::Asserted;
pub use self::queue::{StatusQueue, Urgency, Wanted};
use crate::Context;
use crate::facts::{Known, Problem, ProxiesFact};
use crate::tables::History;
use crate::tables::compiled::Compiled;
use crate::world::{Objects, Record, Seen};

/// How far the tables of a gateway are.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub history: History,
    /// Why they are not written.
    pub problem: Option<Problem>,
}

/// How long this process leads.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// Since a moment ago: it has not heard of everything, and what is not known is as it was.
    pub young: bool,
    /// The round of the objects that were there when it began.
    pub since: u64,
    /// Nothing was looked at yet.
    pub first: bool,
}

/// What a look at all objects found.
#[derive(Default)]
pub struct Shown {
    /// Statuses that differ from what is there.
    pub statuses: Vec<Wanted>,
    /// When looking again finds something else although nothing changed. Unix seconds.
    pub next_change: Option<i64>,
}

/// So many objects are looked at before it is asked whether somebody waits.
const AT_ONCE: usize = 1_024;

/// Looks at all objects. On a thread of its own: there may be a hundred thousand. `may_stop`: where an edit comes meanwhile,
/// it stops and says nothing: what to do goes before what to tell.
pub async fn look(
    context: &Context,
    tables: impl Iterator<Item = (GatewayName, Tables)>,
    term: Term,
    compiled: &Arc<Compiled>,
    queue: &StatusQueue,
    may_stop: bool,
) -> Option<Shown> {
    let (world, known, compiled, asserted) =
        (context.world.clone(), context.facts.snapshot(), compiled.clone(), queue.asserted());
    let tables: BTreeMap<GatewayName, Tables> = tables.collect();
    let looking = tokio::task::spawn_blocking(move || {
        let objects = world.read();
        let asserted = asserted.lock().expect("no holder of the lock panics");
        let now = jiff::Timestamp::now();
        let pass = Pass::new(&objects, &known, &compiled, &tables, &asserted, now, term);
        pass.look(|| may_stop && world.has_edits(&objects))
    });
    looking.await.unwrap_or_else(|error| {
        tracing::error!(%error, "looking at statuses failed; they stay as they are");
        Some(Shown::default())
    })
}

/// One look.
struct Pass<'a> {
    objects: &'a Objects,
    known: &'a Known,
    compiled: &'a Compiled,
    tables: &'a BTreeMap<GatewayName, Tables>,
    asserted: &'a Asserted,
    term: Term,
    gateways: Gateways<'a>,
    index: Index<'a>,
    overshoots: Vec<(&'a GatewayName, Overshoots<'a>)>,
    timestamp: jiff::Timestamp,
    /// Unix seconds.
    now: i64,
    now_text: TimestampText,
    /// Of each gateway.
    proxies: HashMap<(&'a str, &'a str), &'a ProxiesFact>,
    /// Of Budgets that have one for each member, all of them together.
    members: HashMap<(&'a str, &'a str), Members>,
    /// Which ModelDeployments are ready.
    ready: HashMap<(&'a str, &'a str), ConditionStatus>,
    shown: Shown,
}

impl<'a> Pass<'a> {
    fn new(
        objects: &'a Objects,
        known: &'a Known,
        compiled: &'a Compiled,
        tables: &'a BTreeMap<GatewayName, Tables>,
        asserted: &'a Asserted,
        now: jiff::Timestamp,
        term: Term,
    ) -> Pass<'a> {
        let seconds = now.as_second();
        Pass {
            objects,
            known,
            compiled,
            tables,
            asserted,
            term,
            gateways: Gateways::new(objects.documents(), objects.namespaces(), &compiled.standing),
            index: Index::new(objects, compiled, seconds),
            overshoots: compiled.snapshots.iter().map(|(name, snapshot)| (name, Overshoots::new(snapshot))).collect(),
            timestamp: now,
            now: seconds,
            now_text: TimestampText::new(moment(seconds)),
            proxies: known.proxies.iter().map(|((namespace, name), fact)| ((&**namespace, &**name), fact)).collect(),
            members: Members::of_all(known),
            ready: HashMap::new(),
            shown: Shown::default(),
        }
    }

    /// `None`: it was stopped.
    fn look(mut self, stops: impl Fn() -> bool) -> Option<Shown> {
        let objects = self.objects;
        let is_deployment = |document: &Document| matches!(document, Document::ModelDeployment(_));
        // What is ready of these decides what is ready of groups.
        let deployments = objects.iter().filter(|(document, _)| is_deployment(document));
        let others = objects.iter().filter(|(document, _)| !is_deployment(document));
        for (at, (document, record)) in deployments.chain(others).enumerate() {
            if at % AT_ONCE == 0 && stops() {
                return None;
            }
            self.look_at(document, record);
        }
        for (object, record) in self.objects.unreadable() {
            self.unreadable(object, record);
        }
        Some(self.shown)
    }

    fn findings(&self, object: &ObjectRef) -> &'a [Finding] {
        self.compiled.findings.get(object).map_or(&[], Vec::as_slice)
    }

    /// What was there before: what was written last, until the watch brings it.
    fn before(&self, object: &ObjectRef, record: &'a Record) -> &'a Seen {
        match self.asserted.get(object) {
            Some(asserted) if asserted.resource_version == record.resource_version => &asserted.seen,
            _ => &record.seen,
        }
    }

    /// Whether the proxies run it. `in_tables`: it, or what was its last good state, is in the tables of a gateway.
    fn running(
        &self,
        document: &Document,
        record: &Record,
        before: &Seen,
        findings: &[Finding],
        in_tables: bool,
    ) -> Running {
        let Ok(gateways) = self.gateways.of(document) else { return Running::NotInUse };
        if !in_tables {
            // Why the tables are not written is the first thing to know where they hold nothing.
            let problem = gateways.iter().find_map(|gateway| self.tables.get(gateway)?.problem.clone());
            let is_fine = !findings.iter().any(|finding| finding.severity == Severity::Error);
            return match problem {
                Some(problem) if is_fine => Running::NotPublished(problem),
                _ => Running::NotInUse,
            };
        }
        // A gateway without proxies keeps nothing from running in those of others.
        let running = gateways.iter().filter(|gateway| self.may_have_proxies(gateway));
        let running = running.map(|gateway| self.running_at(gateway, record, before));
        if let Some(worst) = running.filter(|running| *running != Running::NoProxies).max_by_key(rank) {
            return worst;
        }
        let running = gateways.iter().map(|gateway| self.running_at(gateway, record, before));
        running.max_by_key(rank).unwrap_or(Running::NotInUse)
    }

    /// Whether a proxy of the gateway is ready, as far as this process has heard.
    fn may_have_proxies(&self, GatewayName { namespace, name }: &GatewayName) -> bool {
        let proxies = self.proxies.get(&(namespace.as_str(), name.as_str()));
        proxies.map_or(self.term.young, |proxies| proxies.ready > 0)
    }

    fn running_at(&self, gateway: &GatewayName, record: &Record, before: &Seen) -> Running {
        let pending = |text: &str| Running::Pending(text.to_owned());
        let Some(tables) = self.tables.get(gateway) else { return pending("the tables are being written") };
        if let Some(problem) = &tables.problem {
            return Running::NotPublished(problem.clone());
        }
        let Some(needed) = tables.history.generation(record.round) else {
            return pending("the tables are being written");
        };
        let GatewayName { namespace, name } = gateway;
        let proxies = self.proxies.get(&(namespace.as_str(), name.as_str())).copied();
        if self.term.young && proxies.is_none_or(|proxies| proxies.generation.is_none()) {
            return as_before(before, record);
        }
        let Some(proxies) = proxies.filter(|proxies| proxies.ready > 0) else { return Running::NoProxies };
        match (proxies.generation, &proxies.error) {
            (Some(generation), _) if generation >= needed => Running::Everywhere,
            (_, Some(error)) => Running::Refused(error.clone()),
            (Some(_), None) => pending("not every ready proxy runs it yet"),
            (None, None) => pending("a ready proxy does not say yet what it runs"),
        }
    }

    /// An object that never could be read.
    fn unreadable(&mut self, object: &ObjectRef, record: &'a Record) {
        let common = Common { findings: &record.findings, running: Running::NotInUse };
        self.show_unreadable(object, record, common);
    }

    /// The next moment at which something changes by itself.
    fn will_change(&mut self, at: i64) {
        if at > self.now {
            self.shown.next_change = Some(self.shown.next_change.map_or(at, |next| next.min(at)));
        }
    }
}

/// What its status says of this version of the object, as long as nobody knows better.
fn as_before(before: &Seen, record: &Record) -> Running {
    let asking = || Running::Pending("proxies are being asked".to_owned());
    if before.generation != Some(record.generation) {
        return asking();
    }
    match before.condition(PROGRAMMED) {
        Some(condition) if condition.status == ConditionStatus::True => Running::Everywhere,
        Some(condition) if *condition.reason == *"NoProxies" => Running::NoProxies,
        Some(_) | None => asking(),
    }
}

/// The worse, the higher.
fn rank(running: &Running) -> u8 {
    match running {
        Running::Everywhere => 0,
        Running::NoProxies => 1,
        Running::Pending(_) => 2,
        Running::Refused(_) => 3,
        Running::NotPublished(_) => 4,
        Running::NotInUse => 5,
    }
}

/// Whether an object that stands in no table by itself is in use: nothing is wrong with it, or its last good state is.
fn is_sound(findings: &[Finding]) -> bool {
    !findings.iter().any(|finding| finding.severity == Severity::Error)
        || findings.iter().any(|finding| finding.reason == Reason::LastGoodKept)
}

/// RFC 3339.
fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}
