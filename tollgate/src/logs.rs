//! Logs: to stderr, as text for people or JSON for machines. Never bodies, keys or e-mail addresses.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Begins to log.
///
/// # Errors
/// The filter cannot be read.
pub fn init(filter: &str, format: Option<Format>) -> anyhow::Result<()> {
    // It logs every failed request, which whoever made it reports once.
    let quieted = format!("kube_client::client::builder=off,{filter}");
    let filter = EnvFilter::try_new(quieted).with_context(|| format!("`{filter}` is not a log filter"))?;
    let terminal = std::io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    match format {
        Format::Text => builder.with_target(false).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
