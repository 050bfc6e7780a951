//! An answer in no dialect: what every provider's reply decodes to and every surface's reply is
//! encoded from.

use super::request::Part;
use crate::Usage;

/// One whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// The provider's id of the answer; empty when it gave none.
    pub id: String,
    /// The model as the provider names it.
    pub model: String,
    /// One, unless the client asked for several; in the order of their index.
    pub choices: Vec<Choice>,
    /// Absent when the provider reported none.
    pub usage: Option<Usage>,
}

/// One of the alternatives of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    pub index: u32,
    /// Text, thinking, tool calls and pieces only one dialect has.
    pub content: Vec<Part>,
    pub stop: Option<StopReason>,
    /// Which of the stop sequences ended it, where the provider says so.
    pub stop_sequence: Option<String>,
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    EndTurn,
    MaxTokens,
    StopSequence,
    ToolUse,
    /// The provider withheld the rest, or the model refused.
    Refusal,
    /// The provider paused a long turn; the client may send it back to go on.
    PauseTurn,
    /// The context window is full.
    ContextWindow,
    /// A word we do not know; told as an ordinary end.
    Other(String),
}

/// What the client is shown instead of the provider's own names.
#[derive(Clone, Copy, Debug)]
pub struct ReplyOptions<'a> {
    /// The model, as the client asked for it.
    pub model: &'a str,
    /// Unix seconds.
    pub created: i64,
    /// The id to show; without it, the provider's in the surface's style.
    pub id: Option<&'a str>,
}

impl StopReason {
    /// An ordinary end that came with tool calls is a stop for tools: some servers say `stop`, and
    /// agents loop on the reason.
    pub(crate) fn with_tool_calls(self, any: bool) -> Self {
        match self {
            Self::EndTurn if any => Self::ToolUse,
            other => other,
        }
    }
}

/// `id` with the prefix of the surface it is shown on.
pub(crate) fn shown_id(prefix: &str, id: &str) -> String {
    if id.starts_with(prefix) {
        return id.to_owned();
    }
    let known = ["chatcmpl-", "cmpl-", "msg_"];
    let bare = known.iter().find_map(|other| id.strip_prefix(other)).unwrap_or(id);
    // Only what is safe in a header and a log; the rest of a strange id is left out.
    let bare: String = bare.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(128).collect();
    if bare.is_empty() { format!("{prefix}0") } else { format!("{prefix}{bare}") }
}
