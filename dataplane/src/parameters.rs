//! What a deployment's own parameters make of a call's worst case. They are written into the request after everything
//! else, so the cap on the output, the number of answers, the service tier and the size of the input may be theirs and not
//! the client's. Read once, when tables are built.

use tollgate_snapshot::model::{Name, Parameters};

use crate::call::Call;
use crate::web_tools;

/// What stands in the request in the end.
#[derive(Clone, Debug, Default, PartialEq)]
enum Setting<T> {
    /// What the client wrote.
    #[default]
    Client,
    /// Nothing, whatever the client wrote.
    Dropped,
    /// This where the client wrote nothing.
    Default(T),
    /// This.
    Forced(T),
    /// Something that this gateway does not understand.
    Unknown,
}

/// The names of a cap on the output.
const CAPS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// What parameters change of a worst case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// What they add to the request at most. Bytes.
    pub bytes: u64,
    caps: [Setting<u64>; 2],
    n: Setting<u64>,
    best_of: Setting<u64>,
    service_tier: Setting<Box<str>>,
    pub web_search: bool,
    /// Turns that tools of theirs for the web may cause.
    pub web_turns: u64,
    /// They may ask for something else than text.
    pub media: bool,
}

/// The cap on a call's output that reaches the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// Of each answer, tokens.
    Known(u64),
    /// The same, to be sent along: the client named none.
    Ours(u64),
    /// None yet.
    Missing,
    /// None, whatever is sent along.
    Dropped,
}

impl Effects {
    pub fn of(parameters: &Parameters) -> Effects {
        let Parameters { defaults, forced, drop: _ } = parameters;
        let number = |text: &str| text.parse().ok();
        let word = |text: &str| serde_json::from_str::<String>(text).ok().map(String::into_boxed_str);
        let both = || defaults.iter().chain(forced);
        Effects {
            // A comma, a colon and the quotes of the name.
            bytes: both().map(|(name, value)| (name.len() + value.len() + 4) as u64).sum(),
            caps: CAPS.map(|name| setting(parameters, name, number)),
            n: setting(parameters, "n", number),
            best_of: setting(parameters, "best_of", number),
            service_tier: setting(parameters, "service_tier", word),
            web_search: both().any(|(name, value)| name.contains("web_search") || value.contains("web_search")),
            web_turns: both()
                .filter(|(name, _)| **name == *"tools")
                .map(|(_, tools)| web_tools::turns(tools.as_bytes()))
                .max()
                .unwrap_or(0),
            media: both().any(|(name, _)| matches!(&**name, "audio" | "modalities")),
        }
    }

    /// `asked`: what the client wrote.
    pub fn cap(&self, asked: Option<u64>) -> Cap {
        let forced = self.caps.iter().filter_map(|cap| if let Setting::Forced(cap) = cap { Some(*cap) } else { None });
        let default =
            self.caps.iter().filter_map(|cap| if let Setting::Default(cap) = cap { Some(*cap) } else { None });
        let is_gone = |cap: &Setting<u64>| matches!(cap, Setting::Dropped | Setting::Unknown);
        match (forced.max(), asked) {
            _ if self.caps.contains(&Setting::Unknown) => Cap::Dropped,
            // Of two names the provider may take either.
            (Some(forced), Some(asked)) => Cap::Known(forced.max(asked)),
            (Some(forced), None) => Cap::Ours(forced),
            (None, _) if self.caps.iter().any(is_gone) => Cap::Dropped,
            (None, Some(asked)) => Cap::Known(asked),
            (None, None) => default.max().map_or(Cap::Missing, Cap::Ours),
        }
    }

    /// How many answers the provider will generate and bill.
    pub fn answers(&self, call: &Call) -> u64 {
        let head = &call.head;
        let number = |setting: &Setting<u64>, of_client: u32| match setting {
            Setting::Forced(number) => *number,
            // What the client wrote cannot be told from what goes without saying.
            Setting::Default(number) => (*number).max(of_client.into()),
            Setting::Client | Setting::Dropped | Setting::Unknown => of_client.into(),
        };
        let each = number(&self.n, head.n).max(number(&self.best_of, head.best_of)).max(1);
        each.saturating_mul(head.prompts.into())
    }

    /// The service tier that is asked for.
    pub fn service_tier<'a>(&'a self, of_client: Option<&'a str>) -> Option<&'a str> {
        match &self.service_tier {
            Setting::Client => of_client,
            Setting::Default(tier) => of_client.or(Some(tier)),
            Setting::Forced(tier) => Some(tier),
            Setting::Dropped | Setting::Unknown => None,
        }
    }
}

fn setting<T>(parameters: &Parameters, name: &str, read: impl Fn(&str) -> Option<T>) -> Setting<T> {
    let Parameters { defaults, forced, drop } = parameters;
    let find = |list: &[(Name, Name)]| {
        let (_, text) = list.iter().find(|(known, _)| **known == *name)?;
        Some(read(text))
    };
    let is_dropped = drop.iter().any(|dropped| **dropped == *name);
    match (find(forced), find(defaults)) {
        (Some(Some(value)), _) => Setting::Forced(value),
        (Some(None), _) | (None, Some(None)) => Setting::Unknown,
        // What the client wrote is taken out first, so the default takes its place.
        (None, Some(Some(value))) if is_dropped => Setting::Forced(value),
        (None, Some(Some(value))) => Setting::Default(value),
        (None, None) if is_dropped => Setting::Dropped,
        (None, None) => Setting::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(defaults: &[(&str, &str)], forced: &[(&str, &str)], drop: &[&str]) -> Effects {
        let list =
            |fields: &[(&str, &str)]| fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let drop = drop.iter().map(|name| (*name).into()).collect();
        Effects::of(&Parameters { defaults: list(defaults), forced: list(forced), drop })
    }

    #[test]
    fn the_cap_is_the_one_that_reaches_the_provider() {
        let old = |text| [("max_tokens", text)];
        let new = |text| [("max_completion_tokens", text)];
        for (effects, asked_for_50, asked_for_none) in [
            (effects(&[], &[], &[]), Cap::Known(50), Cap::Missing),
            (effects(&[("temperature", "1")], &[("top_p", "0.5")], &["user"]), Cap::Known(50), Cap::Missing),
            (effects(&old("20"), &[], &[]), Cap::Known(50), Cap::Ours(20)),
            (effects(&[], &old("900"), &[]), Cap::Known(900), Cap::Ours(900)),
            // The client's may stand under the other name.
            (effects(&[], &new("20"), &[]), Cap::Known(50), Cap::Ours(20)),
            (effects(&[], &[], &["max_tokens"]), Cap::Dropped, Cap::Dropped),
            (effects(&[], &new("70"), &["max_tokens"]), Cap::Known(70), Cap::Ours(70)),
            (effects(&[], &old("null"), &[]), Cap::Dropped, Cap::Dropped),
            (effects(&old("\"many\""), &[], &[]), Cap::Dropped, Cap::Dropped),
            (effects(&old("90"), &[], &["max_tokens"]), Cap::Known(90), Cap::Ours(90)),
        ] {
            assert_eq!((effects.cap(Some(50)), effects.cap(None)), (asked_for_50, asked_for_none), "{effects:?}");
        }
    }

    #[test]
    fn a_tier_is_forced_or_the_clients_or_the_default() {
        let tier = |text| [("service_tier", text)];
        for (effects, of_client, of_none) in [
            (effects(&[], &[], &[]), Some("flex"), None),
            (effects(&tier("\"priority\""), &[], &[]), Some("flex"), Some("priority")),
            (effects(&[], &tier("\"priority\""), &[]), Some("priority"), Some("priority")),
            (effects(&[], &[], &["service_tier"]), None, None),
            (effects(&[], &tier("7"), &[]), None, None),
        ] {
            assert_eq!((effects.service_tier(Some("flex")), effects.service_tier(None)), (of_client, of_none));
        }
    }

    #[test]
    fn what_they_add_to_a_request_counts() {
        assert_eq!(effects(&[("a", "1")], &[("bc", "\"x\"")], &["d"]).bytes, 1 + 1 + 4 + 2 + 3 + 4);
        let search = effects(&[("tools", r#"[{"type":"web_search"}]"#)], &[], &[]);
        assert!(search.web_search && !search.media);
        assert!(effects(&[], &[("modalities", "[\"text\",\"audio\"]")], &[]).media);
        assert_eq!(effects(&[], &[], &[]), Effects::default());
    }
}
