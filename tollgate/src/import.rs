//! `tollgate import`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use tollgate_import::Output;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// LiteLLM's config.yaml.
    #[arg(value_name = "CONFIG")]
    config: PathBuf,

    /// Namespace of the resources.
    #[arg(long, short, default_value = "default", value_name = "NAME", value_parser = namespace)]
    namespace: String,

    /// Write the values of environment variables into the Secrets, as a cluster wants them. A Secret whose variable is
    /// not set is left out, with a warning and the command that makes it.
    #[arg(long)]
    fill: bool,

    /// Leave out the LLMGateway and its master key, for a namespace that uses the gateway of another one.
    #[arg(long)]
    without_gateway: bool,

    /// Print filled Secrets although stdout is a terminal.
    #[arg(long, requires = "fill")]
    show_secrets: bool,
}

/// Prints the resources; 1 when something of the file could not be read.
///
/// # Errors
/// The file cannot be read or stdout not written; secrets would be shown on a terminal.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { config, namespace, fill, without_gateway, show_secrets } = arguments;
    anyhow::ensure!(
        !fill || *show_secrets || !std::io::stdout().is_terminal(),
        "--fill writes secrets, and stdout is a terminal; pipe it (`| kubectl apply -f -`), or add --show-secrets"
    );
    let text = std::fs::read_to_string(config).with_context(|| format!("cannot read `{}`", config.display()))?;
    let variables = |name: &str| std::env::var(name).ok();
    let output = Output { namespace, fill: fill.then_some(&variables), gateway: !without_gateway };
    let printed = tollgate_import::to_yaml(&text, output);
    std::io::stdout().lock().write_all(printed.yaml.as_bytes())?;
    let mut failed = false;
    for note in &printed.notes {
        failed |= note.is_error;
        let severity = if note.is_error { "error" } else { "warning" };
        let place = crate::config::locate::locate(&text, &note.path);
        let place = place.map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
        let path = if note.path.is_empty() { String::new() } else { format!("{}: ", note.path) };
        let hint = if note.hint.is_empty() { String::new() } else { format!(" ({})", note.hint) };
        eprintln!("{}{place}: {severity}: {path}{}{hint}", config.display(), note.message);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A name that a namespace can have.
fn namespace(text: &str) -> Result<String, String> {
    let is_label = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label { Ok(text.to_owned()) } else { Err("a namespace has a-z, 0-9 and -, at most 63".to_owned()) }
}
