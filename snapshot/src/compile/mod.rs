//! `compile`: from documents to the [`Snapshot`], and what there is to say about them. The only place that decides what a
//! document means, in a cluster and standalone. Pure, but for the time zone database that it looks names up in.
//!
//! ```text
//! documents ─ objects ─┬─ gateway, prices ───────┐
//!  by kind, each once  ├─ accounts ─ deployments ┼─ groups ─ routes ─┐
//!                      ├─ teams ─────────────────┴─ budgets ─────────┴─ keys ─ Snapshot
//! ```
//!
//! One file per kind. A bad object is a finding on that object and never stops the others; a broken edit keeps what the
//! last good snapshot says of the object ([`Input::previous`]), but never more authority than is written.

mod account;
mod attachment;
mod bounds;
mod budget;
mod credential;
mod deployment;
mod endpoint;
mod gateway;
mod group;
mod input;
mod key;
mod names;
mod objects;
mod overlay;
mod previous;
mod pricing;
mod provider;
mod quirks;
mod rate_limit;
mod report;
mod route;
mod selecting;
mod shown;
mod team;
mod upstream;
mod values;

pub use attachment::Gateways;
pub use bounds::with_bounds;
pub use budget::{MOST_OF_A_CALL, next_change};
pub use input::{
    ConfigMaps, Document, Input, KeyHashes, Kind, Labels, Meta, Mode, Object, ReplacedKey, Secret, Secrets, Standing,
    Unread,
};

use std::collections::BTreeSet;

use crate::finding::Finding;
use crate::model::{Credential, Snapshot};
use budget::Budgets;
use credential::Credentials;
use gateway::Gateway;
use key::{Keys, Known};
use objects::{Everything, Grants};
use overlay::Overlays;
use previous::Previous;
use report::Report;
use route::Routes;
use upstream::Judge;

/// What came out.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub snapshot: Snapshot,
    /// Those that the snapshot's deployments and stores use, sorted by id.
    pub credentials: Vec<Credential>,
    /// URLs that are told of budgets, sorted by id. For whoever tells; proxies of a cluster never see them.
    pub webhooks: Vec<Credential>,
    /// Sorted by object and field.
    pub findings: Vec<Finding>,
}

/// The snapshot of the gateway that the documents describe, or of a default one where they describe none. The same
/// input in any order gives the same result.
pub fn compile(input: Input<'_>) -> Compiled {
    let mut report = Report::default();
    let grants = Grants { namespaces: input.namespaces };
    let previous = Previous::new(input.previous);
    let everything = Everything::sort(&input.documents, &mut report);
    let mut gateway = Gateway::compile(&input, &everything.gateways, grants, &mut report);

    let mut credentials = Credentials::default();
    credentials.insert_urls(std::mem::take(&mut gateway.urls));
    let prices = Overlays::compile(&input, gateway.prices(), &mut report);
    let mut judge = Judge { input: &input, gateway: &gateway, credentials: &mut credentials, report: &mut report };
    let accounts = account::compile_all(&everything, &mut judge);
    let deployments = deployment::compile_all(&everything, &accounts, grants, &prices, &previous, &mut judge);
    prices.report_unused(&mut report);

    let groups = group::compile_all(&everything, &deployments, &gateway, grants, &previous, &mut report);
    let served = key::find_served(&everything.keys, &gateway, &input, &previous, &mut report);
    let callers: BTreeSet<&str> = served.iter().map(|key| key.object.meta.namespace.as_str()).collect();
    let routes = route::compile(&groups, &deployments, &callers, &gateway, grants, &mut report);

    let teams = team::compile_all(&everything, grants, &gateway, &previous, &mut report);
    let mut budgets = Budgets::compile(&everything, grants, &gateway, &input, &previous, &mut report);
    let work = key::Work {
        everything: &everything,
        teams: &teams,
        budgets: &mut budgets,
        routes: &routes,
        grants,
        previous: &previous,
        gateway: &gateway,
        mode: input.mode,
        known: Known::default(),
    };
    let Keys { keys, mut policies } = work.compile(&served, &mut report);
    let teams = team::of_gateway(teams, &gateway, &mut policies);
    let (mut budgets, webhooks) = budgets.into_rows(&gateway);
    gateway.bound_limits(&mut budgets, &mut report);
    report.retain(|subject| gateway.concerns(subject));

    let Routes { routes, namespaces } = routes;
    let deployments = deployments.compiled;
    gateway.report_idle_priorities(&deployments, &mut report);
    let credentials = credentials.used_by(&deployments);
    let snapshot =
        Snapshot { gateway: gateway.compiled, deployments, routes, namespaces, teams, budgets, policies, keys };
    Compiled { snapshot, credentials, webhooks, findings: report.into_findings() }
}
