//! A condition is refused in one line or judged within its bound, for calls that say as little and as much as they may.

use std::borrow::Cow;

use tollgate_snapshot::condition::{
    Condition, Facts, Field, MAX_STEPS, MAX_TAGS, MAX_TAGS_BYTES, MAX_TEXT_BYTES, Table,
};

/// A call whose texts are all the same.
struct Call {
    text: String,
    tags: Vec<Cow<'static, str>>,
}

impl Facts for Call {
    fn text(&self, _: Field) -> &str {
        &self.text
    }

    fn entry(&self, _: Table, name: &str) -> Option<&str> {
        (!name.is_empty()).then_some(&self.text)
    }

    fn tags(&self) -> &[Cow<'_, str>] {
        &self.tags
    }
}

/// # Panics
/// When it is not.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let condition = match Condition::parse(text) {
        Ok(condition) => condition,
        Err(fault) => {
            let fault = fault.to_string();
            return assert!(fault.len() < 256 && !fault.chars().any(char::is_control), "{fault:?}");
        }
    };
    let tag = "a".repeat(MAX_TAGS_BYTES / MAX_TAGS);
    let (none, most) = (
        Call { text: String::new(), tags: Vec::new() },
        Call { text: "a".repeat(MAX_TEXT_BYTES), tags: vec![tag.into(); MAX_TAGS] },
    );
    for call in [none, most] {
        let judged = condition.judge(&call);
        assert!(judged.steps <= MAX_STEPS, "{} steps", judged.steps);
        assert_eq!(condition.judge(&call), judged);
    }
}
