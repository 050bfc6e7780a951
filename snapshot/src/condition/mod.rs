//! Conditions on a route's targets: a part of CEL without loops, so that judging one takes no longer than reading it.
//! Read here by `compile`, which says what is wrong with one, and by the proxy, which judges calls with it. Tenants write
//! them and clients say what they look at: whatever either writes, both ends take little time and a small stack.
//!
//! ```text
//! text → token → parse (names, types, depth) → Condition → judge (Facts of a call) → holds or not
//! ```

mod judge;
mod parse;
mod token;

use std::borrow::Cow;

use judge::Judge;
use parse::Node;

/// The longest condition, in characters. The schema says the same.
pub const MAX_CHARACTERS: usize = 1024;

/// How deep brackets and choices (`? :`) may nest.
pub const MAX_DEPTH: usize = 16;

/// A longer text of a call is as good as missing. Bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// The tags of a call that has more are as good as missing.
pub const MAX_TAGS: usize = 64;

/// Also those that are longer than this together.
pub const MAX_TAGS_BYTES: usize = 2048;

/// No condition takes more steps for any call: each of its parts is judged once, and what takes the most for its length,
/// `'' in request.tags`, is longer than 16 characters.
pub const MAX_STEPS: usize = MAX_CHARACTERS + MAX_CHARACTERS / 16 * (MAX_TAGS + MAX_TAGS_BYTES);

/// A condition that was read.
#[derive(Debug)]
pub struct Condition {
    root: Node,
}

/// Why a text is no condition, and where: one line, for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

/// What conditions see of a call.
pub trait Facts {
    /// What the call does not have is empty.
    fn text(&self, field: Field) -> &str;

    /// `None` where the call has none of that name.
    fn entry(&self, table: Table, name: &str) -> Option<&str>;

    /// Of the key and of the call.
    fn tags(&self) -> &[Cow<'_, str>];
}

/// A text that each call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Model,
    EndUser,
    KeyName,
    KeyNamespace,
    Team,
    User,
}

/// Texts by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Headers,
    Labels,
}

/// What came of a condition for one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// False also where it looked at something that the call does not have.
    pub holds: bool,
    /// Parts that were judged, and bytes and tags that were compared or searched.
    pub steps: usize,
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// What is wrong with it and at which character.
    pub fn parse(text: &str) -> Result<Condition, Fault> {
        // Four bytes are the longest character: nothing long is counted.
        if text.len() > 4 * MAX_CHARACTERS || text.chars().count() > MAX_CHARACTERS {
            return Err(Fault(format!("the condition is longer than {MAX_CHARACTERS} characters")));
        }
        parse::condition(text).map(|root| Condition { root })
    }

    pub fn judge(&self, facts: &dyn Facts) -> Judged {
        let mut judge = Judge { facts, steps: 0 };
        let holds = judge.holds(&self.root);
        Judged { holds, steps: judge.steps }
    }
}

#[cfg(test)]
mod tests;
