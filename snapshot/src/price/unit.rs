//! What prices count: the units of a price sheet, and the service tiers that change them. Names are those of the data
//! file and of `pricing.rates` in resources.

use serde::{Deserialize, Serialize};

/// One kind of thing that is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Unit {
    /// Text in, neither read from nor written to a cache.
    InputToken,
    /// Text out.
    OutputToken,
    /// Thinking, a part of the output.
    ReasoningToken,
    CacheReadToken,
    /// A read of a cache that the caller made explicitly.
    ExplicitCacheReadToken,
    CacheReadAudioToken,
    CacheReadImageToken,
    /// Written to live five minutes, or for as long as the provider chooses.
    CacheWriteToken,
    /// Written to live one hour.
    CacheWrite1hToken,
    /// Written to live twelve hours.
    CacheWrite12hToken,
    CacheWriteAudioToken,
    InputAudioToken,
    OutputAudioToken,
    InputImageToken,
    OutputImageToken,
    InputVideoToken,
    OutputVideoToken,
    CitationToken,
    InputCharacter,
    OutputCharacter,
    InputSecond,
    OutputSecond,
    InputAudioSecond,
    InputVideoSecond,
    OutputVideoSecond,
    InputImage,
    OutputImage,
    InputPixel,
    OutputPixel,
    /// One call, whatever it holds.
    Request,
    /// A search of a rerank or search model.
    Query,
    /// A search that a model made as a tool.
    WebSearch,
    MapsGroundingQuery,
    CodeInterpreterSession,
    OcrPage,
    AnnotationPage,
}

/// Unit, its name in the data file, its name in resources.
const NAMES: [(Unit, &str, &str); 36] = [
    (Unit::InputToken, "in", "input_token"),
    (Unit::OutputToken, "out", "output_token"),
    (Unit::ReasoningToken, "think", "reasoning_token"),
    (Unit::CacheReadToken, "cr", "cache_read_token"),
    (Unit::ExplicitCacheReadToken, "xcr", "explicit_cache_read_token"),
    (Unit::CacheReadAudioToken, "cra", "cache_read_audio_token"),
    (Unit::CacheReadImageToken, "cri", "cache_read_image_token"),
    (Unit::CacheWriteToken, "cw", "cache_write_token"),
    (Unit::CacheWrite1hToken, "cw1h", "cache_write_1h_token"),
    (Unit::CacheWrite12hToken, "cw12h", "cache_write_12h_token"),
    (Unit::CacheWriteAudioToken, "cwa", "cache_write_audio_token"),
    (Unit::InputAudioToken, "aud", "input_audio_token"),
    (Unit::OutputAudioToken, "oaud", "output_audio_token"),
    (Unit::InputImageToken, "imt", "input_image_token"),
    (Unit::OutputImageToken, "oimt", "output_image_token"),
    (Unit::InputVideoToken, "vidt", "input_video_token"),
    (Unit::OutputVideoToken, "ovidt", "output_video_token"),
    (Unit::CitationToken, "cite", "citation_token"),
    (Unit::InputCharacter, "chr", "input_character"),
    (Unit::OutputCharacter, "ochr", "output_character"),
    (Unit::InputSecond, "sec", "input_second"),
    (Unit::OutputSecond, "osec", "output_second"),
    (Unit::InputAudioSecond, "asec", "input_audio_second"),
    (Unit::InputVideoSecond, "vsec", "input_video_second"),
    (Unit::OutputVideoSecond, "ovsec", "output_video_second"),
    (Unit::InputImage, "img", "input_image"),
    (Unit::OutputImage, "oimg", "output_image"),
    (Unit::InputPixel, "px", "input_pixel"),
    (Unit::OutputPixel, "opx", "output_pixel"),
    (Unit::Request, "req", "request"),
    (Unit::Query, "qry", "query"),
    (Unit::WebSearch, "web", "web_search"),
    (Unit::MapsGroundingQuery, "map", "maps_grounding_query"),
    (Unit::CodeInterpreterSession, "code", "code_interpreter_session"),
    (Unit::OcrPage, "ocr", "ocr_page"),
    (Unit::AnnotationPage, "note", "annotation_page"),
];

impl Unit {
    pub fn all() -> impl Iterator<Item = Unit> {
        NAMES.iter().map(|(unit, _, _)| *unit)
    }

    /// From its name in resources: `input_token`; also in camel case.
    pub fn parse(name: &str) -> Option<Unit> {
        let same = |known: &str| {
            known.bytes().filter(|b| *b != b'_').eq(name.bytes().filter(|b| *b != b'_').map(|b| b.to_ascii_lowercase()))
        };
        NAMES.iter().find(|(_, _, long)| same(long)).map(|(unit, _, _)| *unit)
    }

    /// From its name in the data file.
    pub fn from_code(code: &str) -> Option<Unit> {
        NAMES.iter().find(|(_, short, _)| *short == code).map(|(unit, _, _)| *unit)
    }

    pub fn name(self) -> &'static str {
        NAMES[self as usize].2
    }

    /// The name in the data file.
    pub fn code(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// What the unit costs where a sheet has no rate of its own for it. A cache or a modality without its own price is
    /// paid like plain text, so that a missing rate never makes a call free.
    pub(crate) fn fallback(self) -> Option<Unit> {
        match self {
            Unit::CacheReadToken
            | Unit::CacheWriteToken
            | Unit::InputAudioToken
            | Unit::InputImageToken
            | Unit::InputVideoToken => Some(Unit::InputToken),
            Unit::ExplicitCacheReadToken | Unit::CacheReadAudioToken | Unit::CacheReadImageToken => {
                Some(Unit::CacheReadToken)
            }
            Unit::CacheWrite1hToken | Unit::CacheWriteAudioToken => Some(Unit::CacheWriteToken),
            Unit::CacheWrite12hToken => Some(Unit::CacheWrite1hToken),
            Unit::ReasoningToken | Unit::OutputAudioToken | Unit::OutputImageToken | Unit::OutputVideoToken => {
                Some(Unit::OutputToken)
            }
            Unit::InputToken
            | Unit::OutputToken
            | Unit::CitationToken
            | Unit::InputCharacter
            | Unit::OutputCharacter
            | Unit::InputSecond
            | Unit::OutputSecond
            | Unit::InputAudioSecond
            | Unit::InputVideoSecond
            | Unit::OutputVideoSecond
            | Unit::InputImage
            | Unit::OutputImage
            | Unit::InputPixel
            | Unit::OutputPixel
            | Unit::Request
            | Unit::Query
            | Unit::WebSearch
            | Unit::MapsGroundingQuery
            | Unit::CodeInterpreterSession
            | Unit::OcrPage
            | Unit::AnnotationPage => None,
        }
    }
}

/// A way to be served that has rates of its own; being served the usual way is `None` of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    Batch,
    Flex,
    Priority,
    Balanced,
    Ultrafast,
    Decisions,
}

impl ServiceTier {
    pub const ALL: [ServiceTier; 6] = [
        ServiceTier::Batch,
        ServiceTier::Flex,
        ServiceTier::Priority,
        ServiceTier::Balanced,
        ServiceTier::Ultrafast,
        ServiceTier::Decisions,
    ];

    /// From the text of `service_tier` in a request or an answer. `default`, `standard`, `auto` and what is unknown are
    /// the usual way: `None`.
    pub fn parse(text: &str) -> Option<ServiceTier> {
        ServiceTier::ALL.into_iter().find(|tier| tier.name() == text)
    }

    pub fn name(self) -> &'static str {
        match self {
            ServiceTier::Batch => "batch",
            ServiceTier::Flex => "flex",
            ServiceTier::Priority => "priority",
            ServiceTier::Balanced => "balanced",
            ServiceTier::Ultrafast => "ultrafast",
            ServiceTier::Decisions => "decisions",
        }
    }

    /// A provider's account may be set to this tier, so that it is served without being asked for.
    pub(crate) fn may_come_unasked(self) -> bool {
        matches!(self, ServiceTier::Flex | ServiceTier::Priority | ServiceTier::Balanced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_found_by_its_names() {
        for (index, unit) in Unit::all().enumerate() {
            assert_eq!(unit as usize, index);
            assert_eq!(Unit::parse(unit.name()), Some(unit));
            assert_eq!(Unit::from_code(unit.code()), Some(unit));
        }
        assert_eq!(Unit::parse("inputToken"), Some(Unit::InputToken));
        assert_eq!(Unit::parse("cacheWrite1hToken"), Some(Unit::CacheWrite1hToken));
        assert_eq!(Unit::parse("banana"), None);
    }

    #[test]
    fn the_usual_way_to_be_served_has_many_names() {
        for name in ["default", "standard", "auto", "scale", ""] {
            assert_eq!(ServiceTier::parse(name), None);
        }
        assert_eq!(ServiceTier::parse("priority"), Some(ServiceTier::Priority));
    }
}
