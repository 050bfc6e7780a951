//! First stage: which of our routes a request line names. A table of data, so that a test can walk it and prove that
//! whatever forwards goes through the one pipeline. Looks at method and raw path only; never at `Host`.

use std::borrow::Cow;

use http::Method;
use tollgate_dialects::head::Operation;

/// What answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Forwarded to a model, through the pipeline.
    Forward(Operation),
    Models,
    Model,
    Home,
    Health,
    Liveness,
    Readiness,
    Metrics,
    SnapshotInfo,
}

/// One row of the router.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub method: Verb,
    /// Path after the optional prefixes of [`strip_prefix`]; `{}` at the end takes the rest.
    pub path: &'static str,
    /// Prefixes `/v1`, `/openai/v1`, `/openai/deployments/{model}`, `/engines/{model}` are understood before it.
    pub openai_prefixes: bool,
    pub handler: Handler,
}

/// The methods we route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Post,
}

use Handler::*;
use Verb::*;

/// Every path we serve. First match wins; exact paths only, but for `{}`.
pub const ROUTES: &[Route] = &[
    Route { method: Post, path: "/chat/completions", openai_prefixes: true, handler: Forward(Operation::Chat) },
    Route { method: Post, path: "/v1/messages", openai_prefixes: false, handler: Forward(Operation::Messages) },
    Route { method: Post, path: "/completions", openai_prefixes: true, handler: Forward(Operation::Completions) },
    Route { method: Post, path: "/embeddings", openai_prefixes: true, handler: Forward(Operation::Embeddings) },
    Route {
        method: Post,
        path: "/v1/messages/count_tokens",
        openai_prefixes: false,
        handler: Forward(Operation::CountTokens),
    },
    Route { method: Get, path: "/models", openai_prefixes: true, handler: Models },
    Route { method: Get, path: "/models/{}", openai_prefixes: true, handler: Model },
    Route { method: Get, path: "/health", openai_prefixes: false, handler: Health },
    Route { method: Get, path: "/health/liveliness", openai_prefixes: false, handler: Liveness },
    Route { method: Get, path: "/health/liveness", openai_prefixes: false, handler: Liveness },
    Route { method: Get, path: "/livez", openai_prefixes: false, handler: Liveness },
    Route { method: Get, path: "/health/readiness", openai_prefixes: false, handler: Readiness },
    Route { method: Get, path: "/readyz", openai_prefixes: false, handler: Readiness },
    Route { method: Get, path: "/metrics", openai_prefixes: false, handler: Metrics },
    Route { method: Get, path: "/snapshot", openai_prefixes: false, handler: SnapshotInfo },
    Route { method: Get, path: "/", openai_prefixes: false, handler: Home },
];

/// What a request line names.
#[derive(Debug, PartialEq, Eq)]
pub enum Recognised<'a> {
    /// A route, and the model that the path names, percent-decoded.
    Route {
        handler: Handler,
        model: Option<Cow<'a, str>>,
    },
    /// The path exists, but not for this method.
    WrongMethod,
    NotFound,
}

/// Finds the route of a request.
pub fn recognise<'a>(method: &Method, path: &'a str) -> Recognised<'a> {
    // The two that nearly all calls ask for, before the table.
    if *method == Method::POST {
        if path == "/v1/chat/completions" {
            return Recognised::Route { handler: Forward(Operation::Chat), model: None };
        }
        if path == "/v1/messages" {
            return Recognised::Route { handler: Forward(Operation::Messages), model: None };
        }
    }
    let mut wrong_method = false;
    for route in ROUTES {
        let Some(model) = matches(route, path) else { continue };
        let same = match route.method {
            Get => *method == Method::GET || *method == Method::HEAD,
            Post => *method == Method::POST,
        };
        if same {
            return Recognised::Route { handler: route.handler, model };
        }
        wrong_method = true;
    }
    if wrong_method { Recognised::WrongMethod } else { Recognised::NotFound }
}

/// `Some(model)` when `path` is `route`'s.
fn matches<'a>(route: &Route, path: &'a str) -> Option<Option<Cow<'a, str>>> {
    if let Some(stem) = route.path.strip_suffix("{}") {
        let prefixes: &[&str] = if route.openai_prefixes { &["", "/v1", "/openai/v1", "/openai"] } else { &[""] };
        return prefixes.iter().find_map(|prefix| {
            let name = path.strip_prefix(prefix)?.strip_prefix(stem)?;
            (!name.is_empty()).then(|| Some(percent_decode(name)))
        });
    }
    if path == route.path {
        return Some(None);
    }
    if !route.openai_prefixes {
        return None;
    }
    let front = path.strip_suffix(route.path)?;
    if matches!(front, "/v1" | "/openai/v1" | "/openai") {
        return Some(None);
    }
    // Deployment names may hold slashes, raw or encoded: all between the prefix and the operation is the name.
    let model = front
        .strip_prefix("/openai/deployments/")
        .or_else(|| front.strip_prefix("/v1/engines/"))
        .or_else(|| front.strip_prefix("/engines/"))?;
    (!model.is_empty() && !model.starts_with('/')).then(|| Some(percent_decode(model)))
}

/// Percent-decodes; text that does not decode to UTF-8 stays as it is.
fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let decoded = digits.and_then(|pair| {
            let high = (pair[0] as char).to_digit(16)?;
            let low = (pair[1] as char).to_digit(16)?;
            Some((high * 16 + low) as u8)
        });
        match decoded {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    match String::from_utf8(out) {
        Ok(decoded) => Cow::Owned(decoded),
        Err(_) => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Option<(Handler, Option<String>)> {
        match recognise(&method, path) {
            Recognised::Route { handler, model } => Some((handler, model.map(Cow::into_owned))),
            _ => None,
        }
    }

    #[test]
    fn every_alias_of_a_path_leads_to_its_operation() {
        let chat = Forward(Operation::Chat);
        for (path, model) in [
            ("/v1/chat/completions", None),
            ("/chat/completions", None),
            ("/openai/v1/chat/completions", None),
            ("/openai/deployments/gpt-4o/chat/completions", Some("gpt-4o")),
            ("/openai/deployments/meta%2Fllama/chat/completions", Some("meta/llama")),
            ("/openai/deployments/meta/llama/chat/completions", Some("meta/llama")),
            ("/engines/gpt-4o/chat/completions", Some("gpt-4o")),
        ] {
            assert_eq!(found(Method::POST, path), Some((chat, model.map(str::to_owned))), "{path}");
        }
        assert_eq!(
            found(Method::POST, "/openai/deployments/e/embeddings"),
            Some((Forward(Operation::Embeddings), Some("e".into())))
        );
        assert_eq!(
            found(Method::POST, "/engines/g/completions"),
            Some((Forward(Operation::Completions), Some("g".into())))
        );
        assert_eq!(found(Method::GET, "/v1/models/a/b"), Some((Model, Some("a/b".into()))));
        assert_eq!(found(Method::GET, "/models"), Some((Models, None)));
    }

    #[test]
    fn other_methods_and_paths_are_told_apart() {
        assert_eq!(recognise(&Method::GET, "/v1/chat/completions"), Recognised::WrongMethod);
        for path in [
            "/v1/nothing",
            "/v1/chat/completions/",
            "//v1/chat/completions",
            "/v2/chat/completions",
            "/openai/deployments//chat/completions",
            "/V1/models",
        ] {
            assert_eq!(recognise(&Method::POST, path), Recognised::NotFound, "{path}");
        }
    }

    #[test]
    fn whatever_is_posted_is_forwarded_through_the_pipeline() {
        for route in ROUTES {
            let forwards = matches!(route.handler, Forward(_));
            assert_eq!(forwards, route.method == Post, "{} must be answered by Forward or be a GET", route.path);
        }
    }
}
