//! `tollgate crds`.

mod reference;

use std::io::Write;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print the reference of all fields instead, as Markdown.
    #[arg(long)]
    docs: bool,
}

/// Prints all CustomResourceDefinitions, or their reference.
///
/// # Errors
/// stdout cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if arguments.docs {
        out.write_all(reference::markdown()?.as_bytes())?;
        return Ok(());
    }
    for crd in tollgate_crds::all_crds() {
        write!(out, "---\n{}", yaml_serde::to_string(&crd)?)?;
    }
    Ok(())
}
