//! I/O: a client of the API server, as kubectl would make it.

use std::path::Path;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// With nothing given: the kubeconfig that kubectl would take (`KUBECONFIG`, `~/.kube/config`), inside a pod its own
/// ServiceAccount.
///
/// # Errors
/// There is no usable kubeconfig, or no such context in it.
pub async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Client> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = match (kubeconfig, context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("cannot use `{}`", path.display()))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(|| format!("cannot use `{}`", path.display()))?
        }
        (None, Some(context)) => {
            let read = Config::from_kubeconfig(&options).await;
            read.with_context(|| format!("cannot use context `{context}` of the kubeconfig"))?
        }
        (None, None) => Config::infer().await.context("cannot find out how to reach the cluster")?,
    };
    Client::try_from(config).context("cannot make a client of the API server")
}
