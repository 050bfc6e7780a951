//! Searches of the web that cost something and that no usage tells: OpenAI's chats bill one for a call with
//! `web_search_options`, and show no more of it than citations in the answer; search models bill one for every call.

use tollgate_dialects::json;
use tollgate_dialects::usage::Usage;
use tollgate_dialects::{Dialect, head::Operation};
use tollgate_snapshot::model::{Deployment, Name, Parameters};
use tollgate_snapshot::price::Unit;

use crate::call::Call;

/// The field that asks for searches.
const OPTIONS: &str = "web_search_options";

/// What is known of a call's searches before its answer is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Searching {
    /// It may search, and the usage will not say whether it did.
    is_asked: bool,
    /// It searches in any case.
    always: bool,
    /// The price has a rate for it.
    is_priced: bool,
    size: Option<&'static str>,
}

impl Searching {
    /// Of a call that searches up to `most` times at a deployment.
    pub fn of(call: &Call, deployment: &Deployment, most: u64) -> Searching {
        // Anthropic's usage counts them.
        let is_generation = matches!(call.operation, Operation::Chat | Operation::Completions | Operation::Messages);
        if most == 0 || deployment.dialect != Dialect::OpenAi || !is_generation {
            return Searching::default();
        }
        let is_priced = deployment.price.as_ref().is_some_and(|price| price.charges_for(Unit::WebSearch));
        let size = size_asked(&call.body, &deployment.parameters);
        Searching { is_asked: true, always: deployment.always_searches, is_priced, size }
    }

    /// Whether citations in the answer are to be looked for.
    pub fn wants_citations(self) -> bool {
        self.is_asked && !self.always
    }

    /// The context size asked for, as prices name it.
    pub fn size(self) -> Option<&'static str> {
        self.size
    }

    /// Adds the search that the usage does not tell. `cited`: the answer shows that there was one.
    pub fn complete(self, usage: &mut Usage, hard: bool, cited: bool) {
        // Under Hard what may have happened has; a search without a price would leave all of the call without one.
        let happened = match hard {
            true => self.is_asked && self.is_priced,
            false => self.always || (self.is_asked && cited),
        };
        if happened && usage.web_searches == 0 {
            usage.web_searches = 1;
        }
    }
}

/// What stands in the body that is sent: what is forced, else what the client wrote, else the default.
fn size_asked(body: &[u8], parameters: &Parameters) -> Option<&'static str> {
    let Parameters { defaults, forced, drop } = parameters;
    let set = |list: &[(Name, Name)]| list.iter().find(|(name, _)| **name == *OPTIONS).map(|(_, text)| text.clone());
    let is_dropped = drop.iter().any(|dropped| **dropped == *OPTIONS);
    if let Some(forced) = set(forced) {
        return size_of(forced.as_bytes());
    }
    match json::find(body, [OPTIONS]) {
        Ok([Some(options)]) if !is_dropped => size_of(options.of(body)),
        _ => size_of(set(defaults)?.as_bytes()),
    }
}

/// The size that options say; one that nobody knows counts as the dearest.
fn size_of(options: &[u8]) -> Option<&'static str> {
    let Ok([Some(size)]) = json::find(options, ["search_context_size"]) else { return None };
    match &*size.text(options)? {
        "low" => Some("low"),
        "medium" => Some("medium"),
        _ => Some("high"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_that_of_the_body_that_is_sent() {
        let options = |size: &str| format!(r#"{{"search_context_size":"{size}"}}"#);
        let list = |size: &str| vec![(Name::from(OPTIONS), Name::from(options(size).as_str()))];
        let none = Parameters::default;
        for (size, parameters, expected) in [
            (Some("low"), none(), Some("low")),
            (Some("medium"), none(), Some("medium")),
            (Some("enormous"), none(), Some("high")),
            (None, none(), None),
            (Some("low"), Parameters { forced: list("high"), ..none() }, Some("high")),
            (Some("low"), Parameters { defaults: list("high"), ..none() }, Some("low")),
            (None, Parameters { defaults: list("high"), ..none() }, Some("high")),
            (Some("high"), Parameters { drop: vec![OPTIONS.into()], ..none() }, None),
        ] {
            let body = size.map_or("{}".to_owned(), |size| format!(r#"{{"{OPTIONS}":{}}}"#, options(size)));
            assert_eq!(size_asked(body.as_bytes(), &parameters), expected, "{body} {parameters:?}");
        }
        let elsewhere = br#"{"metadata":{"web_search_options":{"search_context_size":"high"}}}"#;
        assert_eq!(size_asked(elsewhere, &none()), None);
    }

    #[test]
    fn a_search_is_booked_once_where_it_happened_or_may_have() {
        let asked = Searching { is_asked: true, is_priced: true, ..Searching::default() };
        let always = Searching { always: true, ..asked };
        let unpriced = Searching { is_priced: false, ..asked };
        for (searching, hard, cited, told, expected) in [
            (Searching::default(), true, true, 0, 0),
            (asked, false, false, 0, 0),
            (asked, false, true, 0, 1),
            (asked, true, false, 0, 1),
            (asked, true, true, 3, 3),
            (always, false, false, 0, 1),
            (always, false, true, 2, 2),
            // Flagged as unpriced, rather than forgotten; but no reason to charge a hold of tokens.
            (unpriced, false, true, 0, 1),
            (unpriced, true, true, 0, 0),
        ] {
            let mut usage = Usage { web_searches: told, ..Usage::default() };
            searching.complete(&mut usage, hard, cited);
            assert_eq!(usage.web_searches, expected, "{searching:?}, hard {hard}, cited {cited}, told {told}");
        }
    }
}
