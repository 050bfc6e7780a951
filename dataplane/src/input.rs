//! An upper bound of what a call makes the provider read. No tokenizer makes more tokens of a text than it has UTF-8
//! bytes, and the body holds all of the text; images count by the provider's formula. What the provider finds in the web is
//! bounded by the model's context, each time that it reads. What else is not in the body has no bound: files, videos, audio
//! that is elsewhere, and what other tools fetch that the provider runs.

use std::ops::ControlFlow;

use tollgate_dialects::Dialect;
use tollgate_dialects::json::{self, Field, Kind};
use tollgate_snapshot::model::Deployment;

use crate::call::Call;
use crate::error::{GatewayError, Result};

/// Tokens that chat templates and tool schemas put around what the client wrote, for each call and for each message.
const FRAMING_TOKENS: u64 = 256;

/// The most input tokens of a call at a deployment. `turns`: how often the model reads its context again, for what is not in
/// the body.
///
/// # Errors
/// 403: there is no bound.
pub fn bound(call: &Call, deployment: &Deployment, turns: u64) -> Result<u64> {
    let head = &call.head;
    let modalities = &head.modalities;
    let unbounded = |reason: &str| GatewayError::CostUnbounded { reason: reason.to_owned() };
    if modalities.files > 0 {
        return Err(unbounded("files and documents have no bound on their tokens").into());
    }
    if modalities.videos > 0 {
        return Err(unbounded("videos have no bound on their tokens").into());
    }
    let is_elsewhere = || head.content.is_some_and(|content| refers_to_audio(content.of(&call.body)));
    if modalities.elsewhere > 0 || (modalities.audio > 0 && is_elsewhere()) {
        return Err(unbounded("audio that is not in the request has no bound on its tokens").into());
    }
    if let Some(field) = head.reaches_out {
        return Err(unbounded(&format!("`{field}` lets the provider read or run more than the request holds")).into());
    }
    let mut text = call.body.len() as u64;
    if head.reads_web && deployment.dialect != Dialect::Anthropic {
        return Err(unbounded("what tools of this provider find in the web has no bound").into());
    }
    if turns > 0 {
        let Some(context) = context(call, deployment) else {
            let reason = "what is found in the web has no bound where the size of the model's context is not known";
            return Err(unbounded(reason).into());
        };
        text = text.saturating_add(context.saturating_mul(turns));
    }
    if modalities.images == 0 {
        return Ok(text.saturating_add(FRAMING_TOKENS));
    }
    let Some(image) = deployment.image_token_bound else {
        return Err(unbounded("no bound on the tokens of an image is known for this provider").into());
    };
    Ok(text.saturating_add(FRAMING_TOKENS).saturating_add(image.saturating_mul(u64::from(modalities.images))))
}

/// What the model can read at once. A header asks Anthropic for more than its models have by themselves.
#[cold]
fn context(call: &Call, deployment: &Deployment) -> Option<u64> {
    const LONG: (&[u8], u64) = (b"context-1m", 1_000_000);
    let own = deployment.headers.iter().map(|(_, value)| value.as_bytes());
    let mut values = call.forwarded.iter().map(|(_, value)| value.as_bytes()).chain(own);
    let asks = values.any(|value| memchr::memmem::find(value, LONG.0).is_some());
    deployment.max_input_tokens.map(|context| if asks { context.max(LONG.1) } else { context })
}

/// Whether some `input_audio` is anything but the audio itself.
#[cold]
fn refers_to_audio(content: &[u8]) -> bool {
    const KEY: &[u8] = b"\"input_audio\"";
    memchr::memmem::find_iter(content, KEY).any(|at| {
        let rest = content[at + KEY.len()..].trim_ascii_start();
        // Else it is the word, not the key.
        let Some(value) = rest.strip_prefix(b":").map(|value| value.trim_ascii_start()) else { return false };
        if let Some(text) = value.strip_prefix(b"\"") {
            return !is_inline(text);
        }
        let mut refers = false;
        let read = json::object(value, 0, 0, &mut |key: &[u8], field: Field| {
            refers |= match key {
                b"data" => field.kind == Kind::String && !is_inline(&field.of(value)[1..]),
                b"format" => false,
                _ => field.kind != Kind::Null,
            };
            ControlFlow::Continue(())
        });
        refers || read.is_err()
    })
}

/// Whether a text, up to its quote, is data and no address.
fn is_inline(text: &[u8]) -> bool {
    let text = text.split(|byte| *byte == b'"').next().unwrap_or_default();
    text.starts_with(b"data:") || memchr::memchr(b':', text).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_that_is_elsewhere_is_told_from_audio_that_is_here() {
        for (part, elsewhere) in [
            (r#"{"type":"input_audio","input_audio":{"data":"SUQz+/A=","format":"mp3"}}"#, false),
            (r#"{"type":"input_audio","input_audio":{"data":"data:;base64,SUQz","format":"mp3"}}"#, false),
            (r#"{"type":"input_audio","input_audio":"SUQz"}"#, false),
            (r#"{"type":"input_audio","input_audio":{"data":"SUQz"}},{"text":"see https://example.com"}"#, false),
            (r#"{"type":"input_audio","input_audio":{"data":"https://example.com/1h.mp3"}}"#, true),
            (r#"{"type":"input_audio","input_audio" : { "format":"mp3","data" : "gs://bucket/1h.mp3"}}"#, true),
            (r#"{"type":"input_audio","input_audio":{"data":"SUQz","data":"https://example.com/1h.mp3"}}"#, true),
            (r#"{"input_audio":{"data":"SUQz"}},{"input_audio":{"id":"x"}}"#, true),
            (r#"{"type":"input_audio","input_audio":"https://example.com/1h.mp3"}"#, true),
            (r#"{"type":"input_audio","input_audio":["x"]}"#, true),
        ] {
            assert_eq!(refers_to_audio(format!("[{part}]").as_bytes()), elsewhere, "{part}");
        }
    }
}
