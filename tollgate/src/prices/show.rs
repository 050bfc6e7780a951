//! `tollgate prices show`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use tollgate_snapshot::price::{ModelPrice, Multiplier, PriceFile, PriceTable, Row, VERSION};

use super::{source, words};

/// Names that are listed where none is the one that was asked for.
const SIMILAR: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// `provider/model`, or a key of the list.
    model: String,

    /// Look in this price list instead of the built-in one: one in its form, or LiteLLM's price map.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// The line of a price list: what a ConfigMap of `LLMGateway.spec.prices` holds.
    Lines,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    model: &'a str,
    provider: &'a str,
    mode: &'a str,
    source: &'a str,
    rates: Vec<ShownRate>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    factors: &'a [Multiplier],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownRate {
    rate: String,
    /// USD, decimal text.
    price: String,
    per: u64,
}

/// Prints a model's price; 1 when there is none.
///
/// # Errors
/// The file cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { model, from, output } = arguments;
    let other = from.as_deref().map(source::read).transpose()?;
    let table = other.as_ref().map_or(*PriceTable::embedded(), PriceFile::table);
    let shown = from.as_deref().map_or(VERSION.to_owned(), |path| path.display().to_string());
    let Some(price) = table.find_like(model) else {
        eprint!("{}", similar(table, model, &shown));
        return Ok(ExitCode::FAILURE);
    };
    let text = match output {
        Output::Text => text(&price, &shown),
        Output::Json => {
            let ModelPrice { key, provider, mode, rows, multipliers, .. } = &price;
            let rates = rows.iter().map(rate).collect();
            let shown = Shown { model: key, provider, mode, source: &shown, rates, factors: multipliers };
            serde_json::to_string_pretty(&shown)? + "\n"
        }
        Output::Lines => price.to_line()? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn rate(row: &Row) -> ShownRate {
    ShownRate { rate: words::of_row(row), price: words::price(row.unit, row.rate), per: words::per(row.unit) }
}

fn text(price: &ModelPrice, source: &str) -> String {
    let ModelPrice { key, provider, mode, rows, multipliers, deprecated_on, .. } = price;
    let mut text = format!("{key} ({provider}, {mode}), from {source}\n");
    let rates: Vec<ShownRate> = rows.iter().map(rate).collect();
    let width = rates.iter().map(|rate| rate.price.len()).max().unwrap_or_default();
    for ShownRate { rate, price, per } in rates {
        let per = if per == 1 { "each" } else { "per million" };
        let _ = writeln!(text, "  ${price:<width$} {per:<11} {rate}");
    }
    for Multiplier { name, parts_per_million } in multipliers {
        let percent = i64::from(*parts_per_million) / 10_000 - 100;
        let _ = writeln!(text, "  {percent:+}% on all of it: {}", name.replace('_', " "));
    }
    if let Some(day) = deprecated_on {
        let _ = writeln!(text, "  retired on {day}");
    }
    text
}

/// What could be meant.
fn similar(table: PriceTable<'_>, model: &str, source: &str) -> String {
    let wanted = model.rsplit('/').next().unwrap_or(model).to_lowercase();
    let names = table.iter().flatten().map(|price| price.key).filter(|key| key.to_lowercase().contains(&wanted));
    let names: Vec<_> = names.collect();
    let mut text = format!("tollgate: {source} does not know `{model}`\n");
    for name in names.iter().take(SIMILAR) {
        let _ = writeln!(text, "  {name}");
    }
    if names.len() > SIMILAR {
        let _ = writeln!(text, "  and {} more", names.len() - SIMILAR);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_shown_with_its_conditions() {
        let price = PriceTable::embedded().find_like("openai/gpt-5.5").unwrap();
        let text = text(&price, "the list");
        assert!(text.starts_with("gpt-5.5 (openai, chat), from the list\n"), "{text}");
        for line in [" per million input token\n", " per million output token, flex, from 272001 input tokens\n"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.contains("  +10% on all of it: regional processing uplift eu\n"), "{text}");
    }

    #[test]
    fn a_printed_line_is_a_price_list() {
        let price = PriceTable::embedded().find_like("azure/gpt-4o").unwrap();
        let file = PriceFile::read(&price.to_line().unwrap()).unwrap();
        assert_eq!(file.table().find("azure", "gpt-4o", None), Some(price));
    }

    #[test]
    fn names_that_could_be_meant_are_listed() {
        let text = similar(*PriceTable::embedded(), "openai/GPT-4O-AUDIO", "the list");
        assert!(text.starts_with("tollgate: the list does not know `openai/GPT-4O-AUDIO`\n"));
        assert!(text.contains("\n  gpt-4o-audio-preview-2024-12-17\n"), "{text}");
    }
}
