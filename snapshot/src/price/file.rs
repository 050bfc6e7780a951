//! [`PriceFile`]: prices of models that somebody wrote, in the form of the embedded table: checked line by line, and
//! sorted so that they can be searched like it.

use std::collections::BTreeMap;

use super::model::{ModelPrice, PriceFileError};
use super::table::PriceTable;

/// A price file in which every line could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceFile {
    lines: String,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct LineError {
    /// From 1.
    pub line: usize,
    pub error: LineFault,
}

#[derive(Debug, thiserror::Error)]
pub enum LineFault {
    #[error(transparent)]
    Unread(#[from] PriceFileError),
    #[error("model `{0}` has a line already")]
    Twice(String),
    #[error("model `{0}` has no rates; a price that is unknown must not look like none")]
    NoRates(String),
}

impl PriceFile {
    /// From text with a line a model, in any order. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// All lines that are wrong. A file is good as a whole or not at all.
    pub fn read(text: &str) -> Result<PriceFile, Vec<LineError>> {
        let mut models = BTreeMap::new();
        let mut errors = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match read_line(line) {
                // Written anew: a search wants the model first and no spaces before it.
                Ok((key, _)) if models.contains_key(&key) => {
                    errors.push(LineError { line: index + 1, error: LineFault::Twice(key) });
                }
                Ok((key, written)) => {
                    models.insert(key, written);
                }
                Err(error) => errors.push(LineError { line: index + 1, error }),
            }
        }
        if errors.is_empty() { Ok(PriceFile::of_sorted(models.into_values())) } else { Err(errors) }
    }

    /// From models that were read otherwise; of two with the same key the later.
    ///
    /// # Errors
    /// A name that cannot be written down.
    pub fn from_models(models: impl IntoIterator<Item = ModelPrice>) -> Result<PriceFile, PriceFileError> {
        let mut lines = BTreeMap::new();
        for model in models {
            let line = model.to_line()?;
            lines.insert(model.key.to_string(), line);
        }
        Ok(PriceFile::of_sorted(lines.into_values()))
    }

    fn of_sorted(sorted: impl Iterator<Item = String>) -> PriceFile {
        let mut lines = String::new();
        for line in sorted {
            lines.push_str(&line);
            lines.push('\n');
        }
        PriceFile { lines }
    }

    pub fn table(&self) -> PriceTable<'_> {
        PriceTable::new(&self.lines)
    }
}

fn read_line(line: &str) -> Result<(String, String), LineFault> {
    let price = ModelPrice::from_line(line)?;
    if price.rows.is_empty() {
        return Err(LineFault::NoRates(price.key.to_string()));
    }
    let written = price.to_line()?;
    Ok((price.key.to_string(), written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_any_order_and_form_are_found() {
        let text = "# contract 7\n{ \"p\": \"openai\", \"k\": \"chat\", \"m\": \"zz\", \"r\": [\"in 1\"] }\n\n\
            {\"m\":\"aa\",\"p\":\"openai\",\"k\":\"chat\",\"r\":[\"in 2\",\"out 3\"]}\n";
        let file = PriceFile::read(text).unwrap();
        assert_eq!(file.table().get("zz").map(|price| price.rows.len()), Some(1));
        assert_eq!(file.table().get("aa").map(|price| price.rows.len()), Some(2));
        assert_eq!(file.table().get("mm"), None);
    }

    #[test]
    fn every_line_that_is_wrong_is_named() {
        let text = "{\"m\":\"a\",\"p\":\"\",\"k\":\"\",\"r\":[\"in 1\"]}\nnonsense\n\
            {\"m\":\"a\",\"p\":\"\",\"k\":\"\",\"r\":[\"in 2\"]}\n{\"m\":\"b\",\"p\":\"\",\"k\":\"\",\"r\":[]}\n\
            {\"m\":\"c\",\"p\":\"\",\"k\":\"\",\"r\":[\"in -1\"]}\n";
        let errors = PriceFile::read(text).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!(errors[1].to_string(), "line 3: model `a` has a line already");
        assert_eq!(errors[3].to_string(), "line 5: `c`: rate `in -1` is not understood");
    }
}
