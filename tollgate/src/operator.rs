//! `tollgate operator`: flags and variables to settings.

use std::path::PathBuf;

use tollgate_operator::{Namespaces, Settings};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Namespaces whose resources are looked at, with commas between them, or `all`. With a list, Roles in these
    /// namespaces are enough.
    #[arg(long, env = "TOLLGATE_NAMESPACES", default_value = "all", value_name = "NAMES")]
    namespaces: String,

    /// Image of the proxies, where a gateway's pod template names none.
    #[arg(
        long,
        env = "TOLLGATE_IMAGE",
        default_value = concat!("tollgate:", env!("CARGO_PKG_VERSION")),
        value_name = "IMAGE"
    )]
    image: String,

    /// ServiceAccount that proxies run as; it must be there in the namespace of each gateway.
    #[arg(long, env = "TOLLGATE_PROXY_SERVICE_ACCOUNT", default_value = "tollgate-proxy", value_name = "NAME")]
    proxy_service_account: String,

    /// Elect a leader among several operators with a Lease. `false` only where there is one.
    #[arg(
        long,
        env = "TOLLGATE_LEADER_ELECT",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    leader_elect: bool,

    /// Namespace of the Lease: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "tollgate", value_name = "NAMESPACE")]
    lease_namespace: String,

    /// Who this operator is in the Lease and in Events; differs between replicas. Default: the name of the host, which
    /// is the pod's.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,

    /// Port of `/metrics`.
    #[arg(long, env = "TOLLGATE_METRICS_PORT", default_value_t = 8080, value_name = "PORT")]
    metrics_port: u16,

    /// Port of `/livez`, `/readyz` and `/healthz`.
    #[arg(long, env = "TOLLGATE_HEALTH_PORT", default_value_t = 8081, value_name = "PORT")]
    health_port: u16,

    /// File that says how to reach the API server. Default: the pod's own way, else what kubectl would take.
    #[arg(long, env = "TOLLGATE_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The API server cannot be addressed, a port is taken, or a flag makes no sense.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        namespaces,
        image,
        proxy_service_account,
        leader_elect,
        lease_namespace,
        identity,
        metrics_port,
        health_port,
        kubeconfig,
    } = arguments;
    let settings = Settings {
        namespaces: parse_namespaces(&namespaces)?,
        image,
        proxy_service_account,
        leader_elect,
        lease_namespace,
        identity: identity.unwrap_or_else(host),
        metrics_port,
        health_port,
        kubeconfig,
    };
    Ok(tollgate_operator::run(settings)?)
}

fn parse_namespaces(text: &str) -> anyhow::Result<Namespaces> {
    if text == "all" {
        return Ok(Namespaces::All);
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    anyhow::ensure!(
        names.iter().all(|name| !name.is_empty()),
        "--namespaces: write `all`, or names with commas between them"
    );
    Ok(Namespaces::Listed(names))
}

/// The name of this host and the number of this process, so that two on one host differ.
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{name}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_all_or_a_list() {
        assert_eq!(parse_namespaces("all").unwrap(), Namespaces::All);
        assert_eq!(parse_namespaces("a, b").unwrap(), Namespaces::Listed(vec!["a".into(), "b".into()]));
        assert!(parse_namespaces("a,,b").is_err());
        assert!(parse_namespaces("").is_err());
    }
}
