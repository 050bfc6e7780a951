//! Searches of the web that cost something and that no usage tells: OpenAI's chats bill one for a call with
//! `web_search_options`, and show no more of it than citations in the answer; search models bill one for every call.

use tollgate_dialects::json::{self, Kind};
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
    may: bool,
    /// It has the options that ask for a search, and not only a tool that may be the client's own.
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
        let asked = asked(&call.body, &deployment.parameters);
        let (is_asked, size) = (asked.is_some(), asked.flatten());
        Searching { may: true, is_asked, always: deployment.always_searches, is_priced, size }
    }

    /// Whether citations in the answer are to be looked for.
    pub fn wants_citations(self) -> bool {
        self.may && !self.always
    }

    /// The context size asked for, as prices name it.
    pub fn size(self) -> Option<&'static str> {
        self.size
    }

    /// Adds the search that the usage does not tell. `cited`: the answer shows that there was one.
    pub fn complete(self, usage: &mut Usage, hard: bool, cited: bool) {
        let Searching { may, is_asked, always, is_priced, size: _ } = self;
        // Under Hard what was asked for has happened.
        let happened = always || (may && cited) || (is_asked && hard);
        // Where it has no price, the call is flagged so; but that is no reason to charge a hold of tokens.
        if happened && (is_priced || !hard) && usage.web_searches == 0 {
            usage.web_searches = 1;
        }
    }
}

/// The size of the search that the body asks for as it is sent: what is forced, else what the client wrote, else the
/// default. `None`: it asks for none.
fn asked(body: &[u8], parameters: &Parameters) -> Option<Option<&'static str>> {
    let Parameters { defaults, forced, drop } = parameters;
    let set = |list: &[(Name, Name)]| {
        let (_, options) = list.iter().find(|(name, _)| **name == *OPTIONS)?;
        Some(size_of(options.as_bytes()))
    };
    let is_dropped = drop.iter().any(|dropped| **dropped == *OPTIONS);
    let of_client = || {
        let mut asked = None;
        // The body was read before. Of several the dearest counts, since a provider may take any.
        let _ = json::fields(body, |key, field| {
            if key == OPTIONS.as_bytes() && field.kind != Kind::Null {
                let size = size_of(field.of(body));
                asked = asked.max(Some(size));
            }
        });
        asked.filter(|_| !is_dropped)
    };
    let rank = set(forced).or_else(of_client).or_else(|| set(defaults))?;
    Some(match rank {
        Size::Low => Some("low"),
        Size::Usual => None,
        Size::High => Some("high"),
    })
}

/// How much a search is to find.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Size {
    Low,
    Usual,
    High,
}

/// The size that options say; one that nobody knows counts as the dearest.
fn size_of(options: &[u8]) -> Size {
    let mut said = None;
    // What is no object says nothing.
    let _ = json::fields(options, |key, field| {
        if key == b"search_context_size" && field.kind != Kind::Null {
            let size = match field.text(options).as_deref() {
                Some("low") => Size::Low,
                Some("medium") => Size::Usual,
                _ => Size::High,
            };
            said = said.max(Some(size));
        }
    });
    said.unwrap_or(Size::Usual)
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
            (Some("low"), none(), Some(Some("low"))),
            (Some("medium"), none(), Some(None)),
            (Some("enormous"), none(), Some(Some("high"))),
            (None, none(), None),
            (Some("low"), Parameters { forced: list("high"), ..none() }, Some(Some("high"))),
            (Some("low"), Parameters { defaults: list("high"), ..none() }, Some(Some("low"))),
            (None, Parameters { defaults: list("high"), ..none() }, Some(Some("high"))),
            (Some("high"), Parameters { drop: vec![OPTIONS.into()], ..none() }, None),
        ] {
            let body = size.map_or("{}".to_owned(), |size| format!(r#"{{"{OPTIONS}":{}}}"#, options(size)));
            assert_eq!(asked(body.as_bytes(), &parameters), expected, "{body} {parameters:?}");
        }
        let client = |fields: &str| asked(format!("{{{fields}}}").as_bytes(), &none());
        assert_eq!(client(r#""web_search_options":{}"#), Some(None));
        assert_eq!(client(r#""web_search_options":null"#), None);
        let (low, high) = (options("low"), options("high"));
        assert_eq!(client(&format!(r#""{OPTIONS}":{high},"{OPTIONS}":{low}"#)), Some(Some("high")));
        assert_eq!(client(&format!(r#""metadata":{{"{OPTIONS}":{high}}},"tools":["web_search"]"#)), None);
    }

    #[test]
    fn a_search_is_booked_once_where_it_happened_or_may_have() {
        let asked = Searching { may: true, is_asked: true, is_priced: true, ..Searching::default() };
        let always = Searching { is_asked: false, always: true, ..asked };
        let unpriced = Searching { is_priced: false, ..asked };
        let own_tool = Searching { is_asked: false, ..asked };
        for (searching, hard, cited, told, expected) in [
            (Searching::default(), true, true, 0, 0),
            (asked, false, false, 0, 0),
            (asked, false, true, 0, 1),
            (asked, true, false, 0, 1),
            (asked, true, true, 3, 3),
            (always, false, false, 0, 1),
            (always, true, false, 0, 1),
            (always, false, true, 2, 2),
            (unpriced, false, true, 0, 1),
            (unpriced, true, true, 0, 0),
            (own_tool, true, false, 0, 0),
            (own_tool, true, true, 0, 1),
        ] {
            let mut usage = Usage { web_searches: told, ..Usage::default() };
            searching.complete(&mut usage, hard, cited);
            assert_eq!(usage.web_searches, expected, "{searching:?}, hard {hard}, cited {cited}, told {told}");
        }
    }
}
