//! Who writes: election by a Lease, in the protocol of client-go, so that operators of either kind understand each other.
//! Whether another's Lease is over is judged by how long it has not changed here, never by what its clock wrote.
//!
//! The election keeps two leaders from working against each other; it does not keep their writes apart. What does is the
//! resourceVersion that every write carries: one that was computed from an older state is refused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::Context;
use crate::error::Ended;
use crate::metrics::Metrics;
use crate::names::MANAGER;

/// The Lease, in the operator's own namespace.
pub const LEASE: &str = "tollgate-operator";

/// How long others wait after the last sign of a leader. As client-go has it, like the two below.
const DURATION: Duration = Duration::from_secs(15);

/// How long a leader goes on that cannot renew.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// Between two tries to get or renew it.
const RETRY: Duration = Duration::from_secs(2);

/// Between two looks at a Lease that another has: what is given back is taken as soon. A look is one small read.
const LOOK: Duration = Duration::from_millis(500);

/// Whether this process may write. A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    leading: watch::Sender<bool>,
    /// A process that was stopped and goes on must not believe what it believed before.
    until: Arc<Mutex<Instant>>,
}

impl Default for Leadership {
    fn default() -> Leadership {
        Leadership { leading: watch::Sender::new(false), until: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Leadership {
    pub fn is_leading(&self) -> bool {
        *self.leading.borrow() && Instant::now() < *self.until.lock().expect("no holder of the lock panics")
    }

    /// Whether this process was last said to lead.
    fn is_called_leading(&self) -> bool {
        *self.leading.borrow()
    }

    /// Waits until this process leads.
    pub async fn acquired(&self) {
        self.wait_for(true).await;
    }

    /// Waits until this process does not lead any more.
    pub async fn lost(&self) {
        self.wait_for(false).await;
    }

    /// Runs `work` as long as this process leads: waits for that first, drops `work` at its next await when it does not
    /// lead any more. `None`: that happened. Loop over it.
    pub async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.acquired().await;
        tokio::select! {
            // First, so that no write begins after the Lease is lost.
            biased;
            () = self.lost() => None,
            result = work => Some(result),
        }
    }

    fn hold(&self, until: Instant) {
        *self.until.lock().expect("no holder of the lock panics") = until;
        self.set(true);
    }

    fn set(&self, leading: bool) {
        self.leading.send_if_modified(|now| std::mem::replace(now, leading) != leading);
    }

    async fn wait_for(&self, leading: bool) {
        let mut changes = self.leading.subscribe();
        // The sender lives in `self`.
        changes.wait_for(|now| *now == leading).await.expect("the sender is there as long as its handle");
    }
}

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    let Context { client, settings, leadership, metrics, .. } = context;
    if !settings.leader_elect {
        // Far away: an instant has no end.
        leadership.hold(Instant::now() + Duration::from_secs(100 * 365 * 24 * 3_600));
        metrics.leading(true);
        return std::future::pending().await;
    }
    let api = Api::namespaced(client, &settings.lease_namespace);
    let mut election = Election::new(api, settings.identity.clone(), leadership, metrics);
    loop {
        election.step().await;
        sleep(election.pause()).await;
    }
}

/// Gives the Lease back, so that another need not wait for its end. Stops writing first.
pub async fn release(context: &Context) {
    let Context { client, settings, leadership, metrics, .. } = context;
    let was_leading = leadership.is_leading();
    leadership.set(false);
    if !settings.leader_elect || !was_leading {
        return;
    }
    let api = Api::namespaced(client.clone(), &settings.lease_namespace);
    let election = Election::new(api, settings.identity.clone(), leadership.clone(), metrics.clone());
    // A server that does not answer must not keep the process from stopping.
    if timeout(RETRY, election.release()).await.is_err() {
        tracing::warn!("the Lease could not be given back in time");
    }
}

/// A Lease of somebody else, as it was seen.
#[derive(Clone, Debug, PartialEq)]
struct Observed {
    resource_version: Option<String>,
    since: Instant,
}

struct Election {
    api: Api<Lease>,
    identity: String,
    leadership: Leadership,
    metrics: Metrics,
    observed: Option<Observed>,
    /// When it was held surely; measured before the call that renewed it.
    renewed: Option<Instant>,
    /// At the last look another had it.
    is_taken: bool,
}

impl Election {
    fn new(api: Api<Lease>, identity: String, leadership: Leadership, metrics: Metrics) -> Election {
        Election { api, identity, leadership, metrics, observed: None, renewed: None, is_taken: false }
    }

    /// Gets it, renews it, or finds out that somebody else has it.
    async fn step(&mut self) {
        let begun = Instant::now();
        let left = match self.renewed {
            Some(renewed) => (renewed + RENEW_WITHIN).saturating_duration_since(begun),
            None => RENEW_WITHIN,
        };
        let answer = timeout(left, self.hold()).await;
        self.is_taken = matches!(answer, Ok(Ok(false)));
        let held = match answer {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot get or renew the Lease: {error}");
                // Whoever wrote it at the same moment is seen at the next try.
                self.renewed.is_some_and(|renewed| renewed.elapsed() < RENEW_WITHIN)
            }
            Err(_) => {
                tracing::warn!("cannot get or renew the Lease: the API server does not answer");
                false
            }
        };
        // What was said last, also when its time is over: metric and log must take it back.
        match (held, self.leadership.is_called_leading()) {
            (true, false) => {
                tracing::info!(identity = %self.identity, "leading");
                self.metrics.leading(true);
            }
            (false, true) => {
                tracing::warn!(identity = %self.identity, "not leading any more: nothing is written");
                self.metrics.leading(false);
            }
            (true, true) | (false, false) => {}
        }
        match self.renewed {
            Some(renewed) if held => self.leadership.hold(renewed + RENEW_WITHIN),
            _ => {
                self.renewed = None;
                self.leadership.set(false);
            }
        }
    }

    /// Until the next step: not longer than it is held.
    fn pause(&self) -> Duration {
        if self.is_taken {
            return LOOK;
        }
        let left = self.renewed.map(|renewed| (renewed + RENEW_WITHIN).saturating_duration_since(Instant::now()));
        left.map_or(RETRY, |left| left.min(RETRY))
    }

    /// Whether it is ours now.
    async fn hold(&mut self) -> Result<bool, kube::Error> {
        let begun = Instant::now();
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            let created = self.api.create(&parameters(), &lease).await;
            self.metrics.wrote("Lease", &created);
            created?;
            self.renewed = Some(begun);
            return Ok(true);
        };
        let before = lease.spec.clone().unwrap_or_default();
        if !self.may_take(&lease, &before) {
            return Ok(false);
        }
        // With the resourceVersion that was read: of two that take it, one gets it.
        let lease = Lease { metadata: lease.metadata, spec: Some(self.spec(Some(&before))) };
        let replaced = self.api.replace(LEASE, &parameters(), &lease).await;
        self.metrics.wrote("Lease", &replaced);
        replaced?;
        self.renewed = Some(begun);
        self.observed = None;
        Ok(true)
    }

    fn may_take(&mut self, lease: &Lease, spec: &LeaseSpec) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let resource_version = lease.metadata.resource_version.clone();
        let observed = match self.observed.take() {
            Some(observed) if observed.resource_version == resource_version => observed,
            _ => Observed { resource_version, since: Instant::now() },
        };
        let stated = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let is_over = observed.since.elapsed() >= stated.map_or(DURATION, Duration::from_secs);
        self.observed = Some(observed);
        is_over
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(jiff::Timestamp::now()));
        let ours = before.filter(|before| before.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).expect("15 fits")),
            acquire_time: ours.map_or_else(|| now.clone(), |ours| ours.acquire_time.clone()),
            renew_time: now,
            lease_transitions: Some(if ours.is_some() || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self) {
        let given_back = async {
            let mut lease = self.api.get(LEASE).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
            let replaced = self.api.replace(LEASE, &parameters(), &lease).await;
            self.metrics.wrote("Lease", &replaced);
            replaced.map(|_| ())
        };
        match given_back.await {
            Ok(()) => tracing::info!("gave the Lease back"),
            Err::<(), kube::Error>(error) => tracing::warn!(%error, "cannot give the Lease back: {error}"),
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases/tollgate-operator";

    fn election(api: &FakeApi, identity: &str) -> Election {
        let api = Api::namespaced(api.client(), "n");
        Election::new(api, identity.to_owned(), Leadership::default(), Metrics::default())
    }

    /// Steps of an operator for so long; whether it leads in the end.
    async fn steps(election: &mut Election, seconds: u64) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            election.step().await;
            let pause = election.pause();
            if Instant::now() + pause > end {
                tokio::time::sleep_until(end).await;
                return election.leadership.is_leading();
            }
            sleep(pause).await;
        }
    }

    fn holder(api: &FakeApi) -> serde_json::Value {
        api.state().objects[PATH]["spec"]["holderIdentity"].clone()
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_other_waits_until_it_is_silent_long_enough() {
        let api = FakeApi::default();
        let (mut a, mut b) = (election(&api, "a"), election(&api, "b"));
        assert!(steps(&mut a, 1).await);
        assert!(!steps(&mut b, 14).await, "the Lease is not over yet");
        assert!(steps(&mut b, 4).await, "a was silent for more than 15 s");
        assert_eq!(
            (holder(&api), api.state().objects[PATH]["spec"]["leaseTransitions"].clone()),
            ("b".into(), 1.into())
        );
        // The one that was silent finds out and does not take it back.
        assert!(!a.leadership.is_leading());
        assert!(!steps(&mut a, 1).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_renews_stays() {
        let api = FakeApi::default();
        let (mut a, mut b) = (election(&api, "a"), election(&api, "b"));
        assert!(steps(&mut a, 1).await);
        for _ in 0..20 {
            assert!(steps(&mut a, 2).await);
            assert!(!steps(&mut b, 2).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
        let api = FakeApi::default();
        let mut a = election(&api, "a");
        assert!(steps(&mut a, 1).await);
        api.state().refused = vec![("PUT".to_owned(), 500)];
        assert!(steps(&mut a, 8).await, "it may still be renewed");
        assert!(!steps(&mut a, 4).await);
        api.state().refused.clear();
        assert!(steps(&mut a, 1).await, "it wins it again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_back_is_taken_at_once() {
        let api = FakeApi::default();
        let (mut a, mut b) = (election(&api, "a"), election(&api, "b"));
        assert!(steps(&mut a, 1).await);
        a.release().await;
        assert_eq!(holder(&api), "");
        assert!(steps(&mut b, 0).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_takes_what_is_given_back_within_half_a_second() {
        let api = FakeApi::default();
        let (mut a, mut b) = (election(&api, "a"), election(&api, "b"));
        assert!(steps(&mut a, 1).await);
        assert!(!steps(&mut b, 1).await);
        let given_back = Instant::now();
        a.release().await;
        while !b.leadership.is_leading() {
            sleep(b.pause()).await;
            b.step().await;
        }
        assert!(given_back.elapsed() <= LOOK, "{:?}", given_back.elapsed());
        // Who cannot look does not knock all the time.
        api.state().refused = vec![("GET".to_owned(), 500)];
        let mut c = election(&api, "c");
        c.step().await;
        assert_eq!(c.pause(), RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_take_it_at_once_one_gets_it() {
        let api = FakeApi::default();
        let (mut a, mut b) = (election(&api, "a"), election(&api, "b"));
        tokio::join!(a.step(), b.step());
        let leading = [&a, &b].map(|election| election.leadership.is_leading());
        assert_eq!(leading.iter().filter(|leading| **leading).count(), 1, "{leading:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_when_the_lease_is_lost() {
        let leadership = Leadership::default();
        leadership.hold(Instant::now() + RENEW_WITHIN);
        let work = leadership.while_leading(std::future::pending::<()>());
        let lose = async {
            sleep(RETRY).await;
            leadership.set(false);
        };
        let (ended, ()) = tokio::join!(work, lose);
        assert_eq!(ended, None);
    }
}
