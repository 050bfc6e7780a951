//! [`ModelPrice`]: all that the price table says of one model, and the line of the data file that says it. The keys of
//! a line are short because the file is carried in the binary; `data/README.md` spells them out.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::capability::Capabilities;
use super::row::Row;
use super::sheet::{Multiplier, OffPeak, PriceSheet};
use super::table::VERSION;
use crate::model::Name;
use crate::money::Rate;

/// A model of the price table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPrice {
    /// As the table spells it: `gpt-4o`, `azure/gpt-4o`, `groq/openai/gpt-oss-120b`.
    pub key: Name,
    pub provider: Name,
    /// `chat`, `embedding`, `rerank`, ...; empty where the source says none.
    pub mode: Name,
    pub max_input_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    /// Length of an embedding.
    pub vector_size: Option<u64>,
    /// `2026-11-30`
    pub deprecated_on: Option<Name>,
    pub capabilities: Capabilities,
    /// Searches that the provider gives away; nothing here counts them, all searches are priced.
    pub free_searches: Option<FreeSearches>,
    pub rows: Vec<Row>,
    pub off_peak: Vec<OffPeak>,
    pub multipliers: Vec<Multiplier>,
}

/// So many searches per period cost nothing, counted over all models of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeSearches {
    pub count: u64,
    pub period: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_group: Option<Name>,
}

/// A line of the data file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PriceFileError {
    #[error("line of the price file: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`{model}`: rate `{row}` is not understood")]
    Row { model: String, row: String },
    #[error("`{model}`: multiplier `{text}` is not understood")]
    Multiplier { model: String, text: String },
    #[error("`{model}`: the name must be printable ASCII without quotes and backslashes")]
    Name { model: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    /// First, so that a search finds it without parsing the line.
    m: &'a str,
    p: &'a str,
    k: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    c: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    f: Option<FreeSearches>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    x: BTreeMap<&'a str, u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    w: Vec<(u8, u16, u16)>,
    #[serde(borrow)]
    r: Vec<std::borrow::Cow<'a, str>>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What stands before the key in every line.
const KEY_START: &[u8] = b"{\"m\":\"";

/// The key of a line, without parsing the rest.
pub(super) fn key_of(line: &[u8]) -> &[u8] {
    let rest = line.strip_prefix(KEY_START).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'"').unwrap_or_default();
    &rest[..end]
}

impl ModelPrice {
    /// From a line of the data file.
    ///
    /// # Errors
    /// A line in another form than [`ModelPrice::to_line`] writes.
    pub fn from_line(line: &str) -> Result<ModelPrice, PriceFileError> {
        let Line { m, p, k, i, o, v, d, c, f, x, w, r } = serde_json::from_str(line)?;
        let mut rows = Vec::with_capacity(r.len());
        for text in r {
            let unread = || PriceFileError::Row { model: m.to_owned(), row: text.clone().into_owned() };
            rows.push(Row::parse(&text).ok_or_else(unread)?);
        }
        let multipliers = x
            .into_iter()
            .map(|(name, parts_per_million)| Multiplier { name: name.into(), parts_per_million })
            .collect();
        let off_peak = w
            .into_iter()
            .map(|(weekdays, from_minute, to_minute)| OffPeak { weekdays, from_minute, to_minute })
            .collect();
        Ok(ModelPrice {
            key: m.into(),
            provider: p.into(),
            mode: k.into(),
            max_input_tokens: i,
            max_output_tokens: o,
            vector_size: v,
            deprecated_on: d.map(Name::from),
            capabilities: Capabilities(c),
            free_searches: f,
            rows,
            off_peak,
            multipliers,
        })
    }

    /// The line of the data file, without its end.
    ///
    /// # Errors
    /// A key that would need escapes, which a search in the file does not undo.
    pub fn to_line(&self) -> Result<String, PriceFileError> {
        let ModelPrice {
            key,
            provider,
            mode,
            max_input_tokens,
            max_output_tokens,
            vector_size,
            deprecated_on,
            capabilities,
            free_searches,
            rows,
            off_peak,
            multipliers,
        } = self;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
            return Err(PriceFileError::Name { model: key.to_string() });
        }
        let line = Line {
            m: key,
            p: provider,
            k: mode,
            i: *max_input_tokens,
            o: *max_output_tokens,
            v: *vector_size,
            d: deprecated_on.as_deref(),
            c: capabilities.0,
            f: free_searches.clone(),
            x: multipliers.iter().map(|factor| (&*factor.name, factor.parts_per_million)).collect(),
            w: off_peak.iter().map(|hours| (hours.weekdays, hours.from_minute, hours.to_minute)).collect(),
            r: rows.iter().map(|row| row.to_string().into()).collect(),
        };
        Ok(serde_json::to_string(&line)?)
    }

    /// The rates, with where they are from.
    pub fn sheet(&self) -> PriceSheet {
        self.sheet_of(VERSION)
    }

    /// The rates, from another source than the built-in table.
    pub fn sheet_of(&self, source: &str) -> PriceSheet {
        let version = format!("{source} {}", self.key);
        PriceSheet::new(version.into(), self.rows.clone(), self.off_peak.clone(), self.multipliers.clone())
    }
}

impl Multiplier {
    /// From a decimal factor such as `1.1`; digits beyond the sixth decimal round up.
    ///
    /// # Errors
    /// Text that is no factor between 0 and 4,000.
    pub fn parse(model: &str, name: &str, text: &str) -> Result<Multiplier, PriceFileError> {
        let unread = || PriceFileError::Multiplier { model: model.to_owned(), text: text.to_owned() };
        let Rate(atto) = Rate::parse_per(text, 1_000_000_000_000).map_err(|_| unread())?;
        let parts_per_million = u32::try_from(atto).map_err(|_| unread())?;
        Ok(Multiplier { name: name.into(), parts_per_million })
    }
}
