//! Judges a call by a condition. As CEL does: what a call does not have is an error, which `&&` and `||` overcome where
//! their other side decides alone; a condition that ends in one does not hold.

use std::borrow::Cow;

use super::parse::{Node, Order, Search};
use super::{Facts, MAX_TAGS, MAX_TAGS_BYTES, MAX_TEXT_BYTES};

pub(super) struct Judge<'f> {
    pub facts: &'f dyn Facts,
    pub steps: usize,
}

/// The call does not have what was looked at, or too much of it.
struct Missing;

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Value<'v> {
    Bool(bool),
    Number(i64),
    Text(&'v str),
}

impl Value<'_> {
    /// What comparing it takes.
    fn length(self) -> usize {
        match self {
            Value::Bool(_) | Value::Number(_) => 0,
            Value::Text(text) => text.len(),
        }
    }
}

impl<'f> Judge<'f> {
    pub fn holds(&mut self, root: &'f Node) -> bool {
        self.truth(root).unwrap_or(false)
    }

    fn truth(&mut self, node: &'f Node) -> Result<bool, Missing> {
        match self.value(node)? {
            Value::Bool(truth) => Ok(truth),
            Value::Number(_) | Value::Text(_) => Err(Missing),
        }
    }

    fn text(&mut self, node: &'f Node) -> Result<&'f str, Missing> {
        match self.value(node)? {
            Value::Text(text) => Ok(text),
            Value::Bool(_) | Value::Number(_) => Err(Missing),
        }
    }

    fn value(&mut self, node: &'f Node) -> Result<Value<'f>, Missing> {
        self.steps += 1;
        let value = match node {
            Node::Bool(truth) => Value::Bool(*truth),
            Node::Number(number) => Value::Number(*number),
            Node::Text(text) => Value::Text(text),
            Node::Field(field) => Value::Text(short(self.facts.text(*field))?),
            Node::Entry(table, name) => {
                let name = self.text(name)?;
                Value::Text(short(self.facts.entry(*table, name).ok_or(Missing)?)?)
            }
            Node::Not(node) => Value::Bool(!self.truth(node)?),
            Node::All(nodes) => Value::Bool(self.unless(nodes, false)?),
            Node::Any(nodes) => Value::Bool(self.unless(nodes, true)?),
            Node::Compare(order, pair) => {
                let (one, other) = (self.value(&pair[0])?, self.value(&pair[1])?);
                self.steps += one.length().min(other.length());
                Value::Bool(match order {
                    Order::Same => one == other,
                    Order::Other => one != other,
                    Order::Less => one < other,
                    Order::LessOrSame => one <= other,
                    Order::More => one > other,
                    Order::MoreOrSame => one >= other,
                })
            }
            Node::Search(search, pair) => {
                let (text, part) = (self.text(&pair[0])?, self.text(&pair[1])?);
                self.steps += text.len();
                Value::Bool(match search {
                    Search::Begins => text.starts_with(part),
                    Search::Ends => text.ends_with(part),
                    Search::Contains => text.contains(part),
                })
            }
            Node::InTags(node) => {
                let text = self.text(node)?;
                Value::Bool(self.tags()?.iter().any(|tag| *tag == text))
            }
            Node::InTable(table, node) => {
                let name = self.text(node)?;
                Value::Bool(self.facts.entry(*table, name).is_some())
            }
            Node::InList(node, list) => {
                let wanted = self.value(node)?;
                let mut found = false;
                // The list is made first: nothing of it may be missing.
                for one in list {
                    let one = self.value(one)?;
                    self.steps += one.length().min(wanted.length());
                    found |= one == wanted;
                }
                Value::Bool(found)
            }
            Node::CountTags => Value::Number(i64::try_from(self.tags()?.len()).unwrap_or(i64::MAX)),
            Node::Length(node) => {
                let text = self.text(node)?;
                self.steps += text.len();
                Value::Number(i64::try_from(text.chars().count()).unwrap_or(i64::MAX))
            }
            Node::Choose(parts) => {
                let [condition, one, other] = &**parts;
                return if self.truth(condition)? { self.value(one) } else { self.value(other) };
            }
        };
        Ok(value)
    }

    /// `decisive` if any of the nodes is, whatever else is missing.
    fn unless(&mut self, nodes: &'f [Node], decisive: bool) -> Result<bool, Missing> {
        let mut otherwise = Ok(!decisive);
        for node in nodes {
            match self.truth(node) {
                Ok(truth) if truth == decisive => return Ok(decisive),
                Ok(_) => {}
                Err(missing) => otherwise = Err(missing),
            }
        }
        otherwise
    }

    fn tags(&mut self) -> Result<&'f [Cow<'f, str>], Missing> {
        let tags = self.facts.tags();
        if tags.len() > MAX_TAGS {
            return Err(Missing);
        }
        let bytes: usize = tags.iter().map(|tag| tag.len()).sum();
        if bytes > MAX_TAGS_BYTES {
            return Err(Missing);
        }
        self.steps += tags.len() + bytes;
        Ok(tags)
    }
}

fn short(text: &str) -> Result<&str, Missing> {
    if text.len() > MAX_TEXT_BYTES { Err(Missing) } else { Ok(text) }
}
