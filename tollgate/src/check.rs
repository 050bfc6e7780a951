//! `tollgate check`.

use std::process::ExitCode;

use tollgate_snapshot::Severity;

use crate::config::load::{self, Settings, Source, line, load};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: crate::ConfigPath,

    /// Namespace of objects that name none.
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,
}

/// Prints every finding; 1 when one of them is an error.
///
/// # Errors
/// The path cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let loaded = load_only(&arguments.config.path, &arguments.namespace)?;
    let base = arguments.config.path.is_dir().then_some(&*arguments.config.path);
    for placed in &loaded.findings {
        println!("{}", line(placed, base));
    }
    let errors = loaded.findings.iter().filter(|placed| placed.finding.severity == Severity::Error).count();
    let warnings = loaded.findings.len() - errors;
    let snapshot = &loaded.snapshot;
    eprintln!(
        "{errors} errors, {warnings} warnings; usable: {} deployments, {} model names, {} keys, {} budgets",
        snapshot.deployments.len(),
        snapshot.routes.len(),
        snapshot.keys.len(),
        snapshot.budgets.len()
    );
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads and compiles without making anything.
///
/// # Errors
/// The path cannot be read.
pub fn load_only(path: &std::path::Path, namespace: &str) -> anyhow::Result<load::Loaded> {
    let settings = Settings {
        default_namespace: namespace,
        variables: &|name| std::env::var(name).ok(),
        keys: None,
        mock: Some(crate::mock::placeholder()),
        now: jiff::Timestamp::now().as_second(),
    };
    load(&Source::Path(path.to_owned()), &settings, None)
}
