//! What is decided when the operator starts. The binary fills it in from flags and variables.

use std::path::PathBuf;

/// Settings of an operator.
#[derive(Clone, Debug)]
pub struct Settings {
    pub namespaces: Namespaces,
    /// Image of the proxies where a gateway's pod template names none.
    pub image: String,
    /// ServiceAccount that proxies run as; it must be there in the namespace of each gateway.
    pub proxy_service_account: String,
    /// Without election this process writes at once: only where nobody else does.
    pub leader_elect: bool,
    /// Where the Lease is. The operator's own namespace.
    pub lease_namespace: String,
    /// Who this process is in the Lease and in Events; differs between replicas. The name of the pod.
    pub identity: String,
    pub metrics_port: u16,
    pub health_port: u16,
    /// `None`: that of the pod, else what kubectl would take.
    pub kubeconfig: Option<PathBuf>,
}

/// Where resources are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// With one watch for each kind over the whole cluster.
    All,
    /// With one watch for each kind and namespace, so that Roles are enough.
    Listed(Vec<String>),
}

impl Namespaces {
    /// Whether objects of the namespace are looked at.
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Namespaces::All => true,
            Namespaces::Listed(names) => names.iter().any(|name| name == namespace),
        }
    }
}
