//! I/O: looks at a cluster with a kubeconfig, for `check` and `explain`. Reads only, and only what its user may read:
//! resources and Namespaces by list, Secrets one by one by name. What may not be read is said, never taken for missing.

mod access;
mod connect;
mod read;
mod remark;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use kube::Client;
use tollgate_snapshot::price::PriceTable;
use tollgate_snapshot::{ObjectRef, Severity, Snapshot};

use crate::config::cluster::{Judged, Overlaid, Scope};
use crate::config::load::{Placed, Settings};
use crate::config::{document, files};

pub use remark::Remark;

/// Which cluster, and what of it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "In a cluster")]
#[group(skip)]
pub struct Arguments {
    /// Look at the cluster of the kubeconfig's current context.
    #[arg(long)]
    cluster: bool,

    /// Look at the cluster of this kubeconfig. Default: that of kubectl, inside a pod its ServiceAccount.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Look at the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Tell of all namespaces, not only of that of --namespace or the context.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Look at this gateway, as one that can be run. Default for `check`: at all; for `explain`: at the one that takes the
    /// key, or the default.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = two_names)]
    gateway: Option<(String, String)>,

    /// The operator's ServiceAccount, whose permissions are looked at. Default: that of the operator's Deployment.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = two_names)]
    operator: Option<(String, String)>,
}

impl Arguments {
    /// Whether a cluster is meant.
    pub fn is_given(&self) -> bool {
        self.cluster || self.kubeconfig.is_some() || self.context.is_some()
    }
}

/// A cluster as it was seen.
pub struct Look {
    /// One for each gateway that was to be looked at.
    pub snapshots: Vec<Snapshot>,
    pub findings: Vec<Placed>,
    /// What only the API server can tell.
    pub remarks: Vec<Remark>,
    /// The namespace that is told of; `None`: all.
    pub namespace: Option<String>,
}

impl Look {
    /// Whether something about the object is to be told.
    pub fn is_told(&self, object: &ObjectRef) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| object.namespace.is_empty() || *namespace == object.namespace)
    }
}

/// Reads and compiles. `path`: files that would be applied on top.
///
/// # Errors
/// The cluster cannot be reached, the kinds are not installed there, or the path cannot be read.
pub fn look(arguments: &Arguments, namespace: Option<&str>, path: Option<&Path>) -> anyhow::Result<Look> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = connect::connect(arguments.kubeconfig.as_deref(), arguments.context.as_deref()).await?;
        look_at(client, arguments, namespace, path).await
    })
}

async fn look_at(
    client: Client,
    arguments: &Arguments,
    namespace: Option<&str>,
    path: Option<&Path>,
) -> anyhow::Result<Look> {
    let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
    let files = path.map(files::read).transpose()?.unwrap_or_default();
    let mut own = vec![namespace.clone()];
    own.extend(arguments.gateway.iter().map(|(namespace, _)| namespace.clone()));
    let mut found = read::resources(&client, &own).await?;

    let settings = Settings {
        default_namespace: &namespace,
        variables: &document::as_written,
        keys: None,
        mock: None,
        prices: *PriceTable::embedded(),
        now: jiff::Timestamp::now().as_second(),
    };
    let scope = found.scope.clone();
    let mut overlaid = Overlaid::new(found.objects, found.namespaces, scope.clone(), files, &settings);
    let wanted = overlaid.wanted_secrets();
    let seen = read::secrets(&client, &wanted).await?;
    for (namespace, name) in overlaid.wanted_config_maps() {
        if let Some(entries) = read::config_map(&client, &namespace, &name).await? {
            overlaid.add_config_map(&namespace, &name, entries);
        }
    }
    found.states.retain(|state| !overlaid.is_of_a_file(&state.object));
    let told = (!arguments.all_namespaces).then(|| namespace.clone());
    let is_told = |namespace: &str| told.as_ref().is_none_or(|told| told == namespace);
    let mut remarks = found.remarks;
    remarks.extend(remark::forbidden(&wanted, &seen));
    let operator = access::operator(&client, arguments.operator.clone()).await?;
    let mut standing = remark::standing(&found.states, operator.namespace());
    if let Some((namespace, name)) = &arguments.gateway {
        // What keeps it from being run is told apart; it is asked how it would serve.
        standing.unserved.retain(|one| *one.namespace != **namespace || *one.name != **name);
    }
    remarks.extend(access::missing(&client, overlaid.documents(), operator, is_told).await?);
    let Judged { mut snapshots, findings } = overlaid.compile(&wanted, seen, &standing, &settings);
    if let Some((namespace, name)) = &arguments.gateway {
        snapshots.retain(|one| *one.gateway.namespace == **namespace && *one.gateway.name == **name);
        anyhow::ensure!(!snapshots.is_empty(), "there is no LLMGateway `{namespace}/{name}`");
    }
    let broken: HashSet<&ObjectRef> = findings
        .iter()
        .filter(|placed| placed.finding.severity == Severity::Error)
        .map(|placed| &placed.finding.object)
        .collect();
    remarks.extend(remark::of_states(&found.states, |object| broken.contains(object)));
    if let Scope::Only(names) = scope {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        tracing::info!("you may not list all namespaces; looked at: {}", names.join(", "));
    }
    let mut look = Look { snapshots, findings, remarks: Vec::new(), namespace: told };
    remarks.retain(|remark| look.is_told(&remark.object));
    look.remarks = remarks;
    Ok(look)
}

fn two_names(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}
