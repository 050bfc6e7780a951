//! `tollgate check`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tollgate_snapshot::Severity;
use tollgate_snapshot::model::Snapshot;
use tollgate_snapshot::price::PriceTable;

use crate::cluster::{self, Look};
use crate::config::load::{self, Settings, Source, line, load};

/// Where objects of files are that name no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder or file of resources, or a LiteLLM config.yaml.
    #[arg(value_name = "PATH", required_unless_present_any = ["cluster", "kubeconfig", "context"])]
    path: Option<PathBuf>,

    /// Namespace of objects in files that name none; of a cluster, the namespace to tell of. Default: `default`, or
    /// that of the kubeconfig's context.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    cluster: cluster::Arguments,
}

/// Prints every finding; 1 when one of them is an error.
///
/// # Errors
/// The path or the cluster cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { path, namespace, cluster } = arguments;
    if cluster.is_given() {
        let look = cluster::look(cluster, namespace.as_deref(), path.as_deref())?;
        return Ok(print_look(&look, path.as_deref()));
    }
    let path = path.as_deref().expect("clap asks for a path where no cluster is given");
    let loaded = load_only(path, namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE))?;
    let base = base_of(Some(path));
    for placed in &loaded.findings {
        println!("{}", line(placed, base));
    }
    let errors = loaded.findings.iter().filter(|placed| placed.finding.severity == Severity::Error).count();
    Ok(sum_up(errors, loaded.findings.len() - errors, &[&loaded.snapshot]))
}

/// Files of one folder are shown as they are called in it.
fn base_of(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| path.is_dir())
}

fn print_look(look: &Look, path: Option<&Path>) -> ExitCode {
    let base = base_of(path);
    let mut severities = Vec::new();
    for placed in look.findings.iter().filter(|placed| look.is_told(&placed.finding.object)) {
        println!("{}", line(placed, base));
        severities.push(placed.finding.severity);
    }
    for remark in &look.remarks {
        println!("{remark}");
        severities.push(remark.severity);
    }
    let errors = severities.iter().filter(|severity| **severity == Severity::Error).count();
    sum_up(errors, severities.len() - errors, &look.snapshots.iter().collect::<Vec<_>>())
}

fn sum_up(errors: usize, warnings: usize, snapshots: &[&Snapshot]) -> ExitCode {
    let sum = |count: fn(&Snapshot) -> usize| snapshots.iter().map(|snapshot| count(snapshot)).sum::<usize>();
    eprintln!(
        "{errors} errors, {warnings} warnings; usable: {} deployments, {} model names, {} keys, {} budgets",
        sum(|snapshot| snapshot.deployments.len()),
        sum(|snapshot| snapshot.routes.len()),
        sum(|snapshot| snapshot.keys.len()),
        sum(|snapshot| snapshot.budgets.len())
    );
    if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Reads and compiles files without making anything.
///
/// # Errors
/// The path cannot be read.
pub fn load_only(path: &Path, namespace: &str) -> anyhow::Result<load::Loaded> {
    load_with(path, namespace, *PriceTable::embedded())
}

/// The same, as if the price list were another.
///
/// # Errors
/// The path cannot be read.
pub fn load_with(path: &Path, namespace: &str, prices: PriceTable<'_>) -> anyhow::Result<load::Loaded> {
    let settings = Settings {
        default_namespace: namespace,
        variables: &|name| std::env::var(name).ok(),
        keys: None,
        mock: Some(crate::mock::placeholder()),
        prices,
        now: jiff::Timestamp::now().as_second(),
    };
    load(&Source::Path(path.to_owned()), &settings, None)
}
