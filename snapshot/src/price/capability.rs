//! What a model can do, as far as the price table says: a set of names in one word.

use std::fmt;

/// Bit `n` of a set is the `n`th name. New names go to the end: the data file holds the bits.
const NAMES: [&str; 44] = [
    "adaptive_thinking",
    "anthropic_compaction",
    "anthropic_thinking_payload",
    "assistant_prefill",
    "audio_input",
    "audio_output",
    "bedrock_native_structured_output",
    "bedrock_runtime_chat_completions_inline_reasoning",
    "bedrock_runtime_chat_completions_response_format",
    "bedrock_runtime_chat_completions_tools_with_reasoning",
    "box_questions",
    "computer_use",
    "embedding_image_input",
    "fast_mode",
    "forced_tool_use",
    "function_calling",
    "image_input",
    "legacy_thinking",
    "max_reasoning_effort",
    "mid_conversation_system",
    "minimal_reasoning_effort",
    "multimodal",
    "native_streaming",
    "native_structured_output",
    "none_reasoning_effort",
    "nova_canvas_image_edit",
    "output_config",
    "parallel_function_calling",
    "parallel_tool_use_config",
    "pdf_input",
    "prompt_cache_breakpoint",
    "prompt_caching",
    "reasoning",
    "response_schema",
    "speed",
    "system_messages",
    "thinking_cache_preservation",
    "tool_choice",
    "tool_search",
    "url_context",
    "video_input",
    "vision",
    "web_search",
    "xhigh_reasoning_effort",
];

/// A set of capabilities: `vision`, `function_calling`, ...
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(pub(crate) u64);

impl Capabilities {
    /// # Errors
    /// The first name that is not known.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Capabilities, &'a str> {
        let mut bits = 0;
        for name in names {
            bits |= 1 << NAMES.iter().position(|known| *known == name).ok_or(name)?;
        }
        Ok(Capabilities(bits))
    }

    pub fn contains(self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as the data file holds it.
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_the_names_it_was_made_of() {
        let set = Capabilities::from_names(["vision", "reasoning"]).unwrap();
        assert!(set.contains("vision") && set.contains("reasoning") && !set.contains("audio_input"));
        assert_eq!(Capabilities(set.bits()).names().collect::<Vec<_>>(), ["reasoning", "vision"]);
        assert_eq!(Capabilities::from_names(["vision", "telepathy"]), Err("telepathy"));
    }
}
