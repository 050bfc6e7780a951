//! Tools by which a provider searches and reads the web itself, in the middle of an answer. What they find is input of the
//! model's next turn, and each turn reads all of it again: none more than fits into the model's context.

use std::ops::ControlFlow;

use tollgate_dialects::head::is_web_tool;
use tollgate_dialects::json::{self, Kind};

/// Turns of one request after the first: the provider pauses its answer then, and the client has to ask again.
const MORE_TURNS: u64 = 9;

/// Versions whose every use is counted by their `max_uses`. Later ones run code that uses them.
const COUNTED: [&[u8]; 4] = [b"web_search", b"web_search_20250305", b"web_fetch", b"web_fetch_20250910"];

/// How often the model may read its whole context for tools like these, after its first turn.
pub fn turns(tools: &[u8]) -> u64 {
    let mut turns = 0u64;
    // The body was read before.
    let _ = json::elements(tools, |tool, kind| {
        if kind == Kind::Object {
            turns = turns.saturating_add(turns_for(tool.of(tools)));
        }
        ControlFlow::Continue(())
    });
    match turns {
        0 => 0,
        // And one after a use that is refused because there were enough.
        turns => turns.saturating_add(1).min(MORE_TURNS),
    }
}

fn turns_for(tool: &[u8]) -> u64 {
    let (mut is_web, mut is_counted, mut most) = (false, true, None);
    let _ = json::fields(tool, |key, field| match key {
        b"type" => {
            let kind = field.text(tool).unwrap_or_default();
            if is_web_tool(kind.as_bytes()) {
                is_web = true;
                is_counted &= COUNTED.contains(&kind.as_bytes());
            }
        }
        // Of several the largest counts.
        b"max_uses" => most = most.max(json::unsigned(field.of(tool))),
        _ => {}
    });
    match most {
        _ if !is_web => 0,
        Some(most) if is_counted => most,
        _ => MORE_TURNS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_is_a_turn_and_there_are_no_more_than_the_provider_makes() {
        for (tools, expected) in [
            (r#"[{"type":"web_search_20250305","name":"web_search","max_uses":2}]"#, 3),
            (r#"[{"type":"web_search_20250305","max_uses":2},{"max_uses":3,"type":"web_fetch_20250910"}]"#, 6),
            (r#"[{"type":"web_search_20250305","max_uses":500}]"#, 9),
            (r#"[{"type":"web_search_20250305","max_uses":0}]"#, 0),
            (r#"[{"type":"web_search_20250305","max_uses":1,"max_uses":4}]"#, 5),
            (r#"[{"type":"web_search_20250305"}]"#, 9),
            (r#"[{"type":"web_search_20250305","max_uses":null}]"#, 9),
            (r#"[{"type":"web_search_20260209","max_uses":1}]"#, 9),
            (r#"[{"type":"web_\u0073earch_20250305","max_uses":1}]"#, 2),
            (r#"[{"name":"web_search","input_schema":{"max_uses":3}},{"type":"custom"},7]"#, 0),
            ("null", 0),
        ] {
            assert_eq!(turns(tools.as_bytes()), expected, "{tools}");
        }
    }
}
