//! `tollgate import`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// LiteLLM's config.yaml.
    #[arg(value_name = "CONFIG")]
    config: PathBuf,

    /// Namespace of the resources.
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,
}

/// Prints the resources; 1 when something of the file could not be read.
///
/// # Errors
/// The file cannot be read or stdout not written.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&arguments.config)
        .with_context(|| format!("cannot read `{}`", arguments.config.display()))?;
    let printed = tollgate_import::to_yaml(&text, &arguments.namespace);
    std::io::stdout().lock().write_all(printed.yaml.as_bytes())?;
    let mut failed = false;
    for note in &printed.notes {
        failed |= note.is_error;
        let severity = if note.is_error { "error" } else { "warning" };
        let place = crate::config::locate::locate(&text, &note.path);
        let place = place.map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
        let hint = if note.hint.is_empty() { String::new() } else { format!(" ({})", note.hint) };
        eprintln!("{}{place}: {severity}: {}: {}{hint}", arguments.config.display(), note.path, note.message);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
