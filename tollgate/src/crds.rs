//! `tollgate crds`.

use std::io::Write;

/// Prints all CustomResourceDefinitions.
///
/// # Errors
/// stdout cannot be written.
pub fn run() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for crd in tollgate_crds::all_crds() {
        write!(out, "---\n{}", yaml_serde::to_string(&crd)?)?;
    }
    Ok(())
}
