//! From path to surface: which API a request addresses and, for Azure, which deployment. Pure; no bodies.

use http::Method;
use serde::{Deserialize, Serialize};

/// The API a request was made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surface {
    ChatCompletions,
    Completions,
    Embeddings,
    Models,
    Messages,
    CountTokens,
    /// A path that no provider serves.
    Unknown,
}

impl Surface {
    /// Whether errors and replies take Anthropic's shape.
    pub(crate) fn is_anthropic(self) -> bool {
        matches!(self, Surface::Messages | Surface::CountTokens)
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub surface: Surface,
    /// Under `/openai/`: Azure's rules for keys apply.
    pub azure: bool,
    /// Azure's deployment, percent-decoded: it is the model.
    pub deployment: Option<String>,
    /// The path must carry `api-version`.
    pub versioned: bool,
    pub method_allowed: bool,
}

const SURFACES: [(&str, Surface); 6] = [
    ("chat/completions", Surface::ChatCompletions),
    ("completions", Surface::Completions),
    ("embeddings", Surface::Embeddings),
    ("models", Surface::Models),
    ("messages", Surface::Messages),
    ("messages/count_tokens", Surface::CountTokens),
];

/// Finds the surface of a path. `None`: not a path of any provider.
pub(crate) fn find(method: &Method, path: &str) -> Option<Route> {
    let plain = |surface, azure| Route {
        surface,
        azure,
        deployment: None,
        versioned: false,
        method_allowed: (*method == Method::GET) == (surface == Surface::Models),
    };
    if let Some(rest) = path.strip_prefix("/openai/deployments/") {
        // `/chat/completions` is tried before `/completions`, its own suffix.
        for (name, surface) in &SURFACES[..3] {
            if let Some(deployment) = rest.strip_suffix(name).and_then(|rest| rest.strip_suffix('/')) {
                return Some(Route {
                    deployment: Some(percent_decode(deployment)),
                    versioned: true,
                    ..plain(*surface, true)
                });
            }
        }
        return None;
    }
    if let Some(rest) = path.strip_prefix("/openai/v1/") {
        return SURFACES[..4].iter().find(|(name, _)| *name == rest).map(|(_, surface)| plain(*surface, true));
    }
    let rest = path.strip_prefix("/v1/").or_else(|| path.strip_prefix('/'))?;
    let model_by_id = rest.strip_prefix("models/").is_some_and(|id| !id.is_empty());
    if model_by_id {
        return Some(plain(Surface::Models, false));
    }
    SURFACES.iter().find(|(name, _)| *name == rest).map(|(_, surface)| plain(*surface, false))
}

/// Decodes `%XX`; whatever is not a valid escape stays as it is.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escape.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_surface() {
        let found = |path: &str| find(&Method::POST, path).map(|route| (route.surface, route.deployment));
        for (path, surface) in [
            ("/v1/chat/completions", Surface::ChatCompletions),
            ("/chat/completions", Surface::ChatCompletions),
            ("/openai/v1/chat/completions", Surface::ChatCompletions),
            ("/v1/completions", Surface::Completions),
            ("/v1/embeddings", Surface::Embeddings),
            ("/v1/models", Surface::Models),
            ("/v1/models/gpt-4o", Surface::Models),
            ("/v1/messages", Surface::Messages),
            ("/v1/messages/count_tokens", Surface::CountTokens),
        ] {
            assert_eq!(found(path), Some((surface, None)), "{path}");
        }
        for (path, deployment) in [
            ("/openai/deployments/my-gpt/chat/completions", "my-gpt"),
            ("/openai/deployments/a%2Fb/chat/completions", "a/b"),
            ("/openai/deployments/a/b/chat/completions", "a/b"),
        ] {
            assert_eq!(found(path), Some((Surface::ChatCompletions, Some(deployment.to_string()))), "{path}");
        }
        for path in ["/", "/v2/chat/completions", "/openai/deployments/chat", "/openai/v1/messages"] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("a%zz%20b"), "a%zz b");
    }
}
