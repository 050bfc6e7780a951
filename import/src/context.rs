//! What every reader of the file shares: notes, variables, and how values of a kind are read. A value that is not of the
//! kind becomes a note, and the setting counts as absent.

use tollgate_crds::DurationText;

use crate::block::Item;
use crate::decimal::Decimal;
use crate::environment::{Environment, Resolved};
use crate::node::Node;
use crate::note::Notes;

pub struct Context<'a> {
    pub notes: Notes,
    pub environment: Environment<'a>,
    /// Whether the note about timeouts of streams was given.
    pub said_that_streams_end: bool,
}

impl Context<'_> {
    /// Text, or a scalar that stands for it.
    pub fn text(&mut self, item: &Item) -> Option<String> {
        let text = match &item.node {
            Node::Text(text) | Node::Number(text) => text,
            Node::Boolean(value) => return Some(value.to_string()),
            Node::Null | Node::List(_) | Node::Map(_) | Node::Tagged => {
                self.unexpected(item, "text");
                return None;
            }
        };
        match self.environment.resolve(text) {
            Resolved::Text(text) => Some(text),
            Resolved::Variable(name) => {
                let (message, hint) = if self.environment.is_filled() {
                    (format!("the environment variable `{name}` is not set"), format!("set {name}, or write"))
                } else {
                    let message = "resources take variables in Secrets only, so";
                    (format!("{message} `{name}` cannot be filled in here"), "write".to_owned())
                };
                self.notes.error(&item.path, message, format!("{hint} its value where the output says ${{{name}}}"));
                Some(format!("${{{name}}}"))
            }
            Resolved::Missing(name) => {
                self.missing(item, &name);
                None
            }
        }
    }

    /// Text that goes into a Secret; variables that are known later, or not set while others are filled in, stay
    /// variables.
    pub fn secret(&mut self, item: &Item) -> Option<Resolved> {
        let (Node::Text(text) | Node::Number(text)) = &item.node else {
            self.unexpected(item, "text");
            return None;
        };
        match self.environment.resolve(text) {
            Resolved::Missing(name) => {
                self.missing(item, &name);
                None
            }
            Resolved::Variable(name) if self.environment.is_filled() => {
                let message = format!("the environment variable `{name}` is not set; the Secret with it is left out");
                self.notes.warn(&item.path, message, format!("set {name}, or make the Secret by hand"));
                Some(Resolved::Variable(name))
            }
            found => Some(found),
        }
    }

    pub fn boolean(&mut self, item: &Item) -> Option<bool> {
        let word = match &item.node {
            Node::Boolean(value) => return Some(*value),
            Node::Text(_) => self.text(item)?.to_ascii_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => {
                self.unexpected(item, "true or false");
                None
            }
        }
    }

    /// A number ≥ 0.
    pub fn decimal(&mut self, item: &Item) -> Option<Decimal> {
        let text = match &item.node {
            Node::Number(text) => text.clone(),
            Node::Text(_) => self.text(item)?,
            _ => String::new(),
        };
        let number = Decimal::parse(&text);
        if number.is_none() {
            self.unexpected(item, "a number that is not negative");
        }
        number
    }

    /// A whole number in the range; one outside it is moved to its nearer end, with a note.
    pub fn integer(&mut self, item: &Item, least: i64, most: i64) -> Option<i64> {
        let number = self.decimal(item)?;
        let Some(whole) = number.scaled(0) else {
            self.unexpected(item, "a whole number");
            return None;
        };
        let kept = whole.clamp(least, most);
        if kept != whole {
            self.notes.warn(&item.path, format!("{whole} is outside {least} to {most}; {kept} is used"), "");
        }
        Some(kept)
    }

    /// As [`Context::integer`], for small ranges.
    pub fn small(&mut self, item: &Item, least: i32, most: i32) -> Option<i32> {
        let number = self.integer(item, least.into(), most.into())?;
        i32::try_from(number).ok()
    }

    /// Seconds, perhaps with a fraction; a list `[connect, read]` is not one.
    pub fn seconds(&mut self, item: &Item) -> Option<DurationText> {
        let seconds = self.decimal(item)?;
        let text = duration_text(&seconds);
        if text.is_none() {
            self.unexpected(item, "seconds, down to a thousandth");
        }
        text
    }

    /// Texts of a list, or the one text that stands in its place.
    pub fn texts(&mut self, item: Item) -> Vec<String> {
        item.each().iter().filter_map(|item| self.text(item)).collect()
    }

    /// JSON with all variables filled in.
    pub fn json(&mut self, item: &Item) -> serde_json::Value {
        match &item.node {
            Node::Text(_) => self.text(item).map_or(serde_json::Value::Null, serde_json::Value::from),
            Node::List(_) => item.clone().each().iter().map(|item| self.json(item)).collect(),
            Node::Map(entries) => {
                let read = |(key, node): &(String, Node)| {
                    let inner = Item { path: format!("{}.{key}", item.path), node: node.clone() };
                    (key.clone(), self.json(&inner))
                };
                serde_json::Value::Object(entries.iter().map(read).collect())
            }
            node => node.to_json(),
        }
    }

    /// A value of another kind than what can be used.
    pub fn unexpected(&mut self, item: &Item, wanted: &str) {
        self.notes.error(&item.path, format!("expected {wanted}, found {}", item.node.kind()), "");
    }

    /// A setting that has no equivalent.
    pub fn unsupported(&mut self, path: &str, what: &str, hint: &str) {
        let name = path.rsplit('.').next().unwrap_or(path);
        self.notes.warn(path, format!("`{name}` {what}"), hint);
    }

    fn missing(&mut self, item: &Item, name: &str) {
        self.notes.error(&item.path, format!("the environment variable `{name}` is not set"), format!("set {name}"));
    }
}

/// `90` → `90s`, `1.5` → `1500ms`; hours where seconds would have too many digits.
pub fn duration_text(seconds: &Decimal) -> Option<DurationText> {
    let milliseconds = seconds.scaled(3)?;
    let text = match milliseconds {
        ms if ms % 1_000 != 0 => format!("{ms}ms"),
        ms if ms / 1_000 < 10_000_000 => format!("{}s", ms / 1_000),
        ms => format!("{}h", ms / 3_600_000),
    };
    let text = DurationText::new(text);
    text.get().is_ok().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_durations() {
        for (seconds, text) in [
            ("90", Some("90s")),
            ("1.5", Some("1500ms")),
            ("0", Some("0s")),
            ("0.0001", None),
            ("6e9", Some("1666666h")),
            ("1e15", None),
        ] {
            let read = duration_text(&Decimal::parse(seconds).unwrap());
            assert_eq!(read.as_ref().map(DurationText::as_str), text, "{seconds}");
        }
    }
}
