//! Reads price files, of our own form and of LiteLLM's.

use std::path::Path;

use anyhow::Context;
use tollgate_import::{PriceMap, is_price_map, read_price_map};
use tollgate_snapshot::price::PriceFile;

/// Lines that are shown of a file with errors.
const SHOWN: usize = 10;

/// # Errors
/// The file cannot be read, or holds something else than prices.
pub fn read(path: &Path) -> anyhow::Result<PriceFile> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    parse(&text).with_context(|| format!("`{}`", path.display()))
}

fn parse(text: &str) -> anyhow::Result<PriceFile> {
    if is_price_map(text) {
        let PriceMap { models, unread } = read_price_map(text).map_err(anyhow::Error::msg)?;
        if !unread.is_empty() {
            let names: Vec<&str> = unread.iter().map(String::as_str).collect();
            eprintln!("tollgate: not understood and left out: {}", names.join(", "));
        }
        return Ok(PriceFile::from_models(models)?);
    }
    PriceFile::read(text).map_err(|errors| {
        let mut lines: Vec<String> = errors.iter().take(SHOWN).map(ToString::to_string).collect();
        if errors.len() > SHOWN {
            lines.push(format!("and {} further lines", errors.len() - SHOWN));
        }
        anyhow::anyhow!("neither a price list nor LiteLLM's price map: {}", lines.join("; "))
    })
}
