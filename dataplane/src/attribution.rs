//! What a row says of a call beyond its key: tags, the end user, and models where a wildcard matched. What keys and
//! deployments say is resolved when tables are built, so that a call which brings nothing of its own costs nothing here.

use std::borrow::Cow;

use tollgate_dialects::head::Head;
use tollgate_ledger::{Ledger, NameId};
use tollgate_snapshot::model::{KeyHash, Name};

use crate::admit::Admitted;
use crate::core::Core;
use crate::outgoing::upstream_model;

/// Tags of one call in its row; more are left out. So are those that would make the set longer than a name may be.
const MOST_TAGS: usize = 32;
const MOST_TAG_BYTES: usize = 1000;

/// The part of a row that is the call's own.
#[derive(Clone, Copy, Debug)]
pub struct Attribution {
    /// The public name that was asked for.
    pub model: NameId,
    /// The provider's.
    pub served_model: NameId,
    pub tags: NameId,
    /// A hash, which is there also where there are too many names.
    pub end_user: u64,
    pub end_user_name: NameId,
}

/// Of a call at a deployment.
pub fn of(core: &Core, admitted: &Admitted, deployment: u32) -> Attribution {
    let tables = &admitted.caller.tables;
    let ledger = &core.shared.builder.ledger;
    let route = &tables.routes[admitted.route as usize];
    let model = match route.is_pattern {
        false => route.name_id,
        true => ledger.intern_chosen(&admitted.model).unwrap_or(route.name_id),
    };
    let served_model = tables.deployments[deployment as usize].model_id.unwrap_or_else(|| {
        let (route, deployment) =
            (&tables.snapshot.routes[admitted.route as usize], &tables.snapshot.deployments[deployment as usize]);
        ledger.intern_chosen(&upstream_model(route, deployment, &admitted.model)).unwrap_or_default()
    });
    let (end_user, end_user_name) = end_user(ledger, admitted);
    Attribution { model, served_model, tags: tags(core, admitted), end_user, end_user_name }
}

fn end_user(ledger: &Ledger, admitted: &Admitted) -> (u64, NameId) {
    let Some(name) = admitted.call.end_user() else { return (0, NameId::default()) };
    let [a, b, c, d, e, f, g, h, ..] = KeyHash::of(name.as_bytes()).0;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]), ledger.intern_chosen(&name).unwrap_or_default())
}

/// The key's tags and the call's own.
fn tags(core: &Core, admitted: &Admitted) -> NameId {
    let call = &admitted.call;
    let state = admitted.caller.state(&core.shared.builder);
    let Head { tags, metadata, litellm_metadata, .. } = &call.head;
    if call.options.tags.is_empty() && tags.is_none() && metadata.is_none() && litellm_metadata.is_none() {
        return state.tags;
    }
    let in_body = call.head.tags(&call.body);
    if call.options.tags.is_empty() && in_body.is_empty() {
        return state.tags;
    }
    let of_key = admitted.caller.policy().map(|policy| &*policy.tags).unwrap_or_default();
    let of_call = call.options.tags.iter().map(|tag| Cow::Borrowed(tag.as_str())).chain(in_body);
    let set = set_of(of_key.iter().map(|tag| Cow::Borrowed(&**tag)).chain(of_call));
    core.shared.builder.ledger.intern_chosen(&set).unwrap_or(state.tags)
}

/// The name of a key's tags in the dictionary.
pub fn of_key(ledger: &Ledger, tags: &[Name]) -> NameId {
    if tags.is_empty() {
        return NameId::default();
    }
    ledger.intern(&set_of(tags.iter().map(|tag| Cow::Borrowed(&**tag))))
}

/// Tags as rows have them: a JSON array, sorted, each once. The first ones where there are too many.
fn set_of<'a>(tags: impl Iterator<Item = Cow<'a, str>>) -> String {
    let mut set: Vec<Cow<'a, str>> = Vec::new();
    // Brackets.
    let mut bytes = 2;
    for tag in tags.filter(|tag| !tag.is_empty()) {
        // As JSON it has quotes, a comma, and up to six bytes for one that needs an escape.
        let size =
            3 + tag.bytes().map(|byte| if matches!(byte, 0..=0x1f | b'"' | b'\\') { 6 } else { 1 }).sum::<usize>();
        if set.contains(&tag) || bytes + size > MOST_TAG_BYTES {
            continue;
        }
        bytes += size;
        set.push(tag);
        if set.len() == MOST_TAGS {
            break;
        }
    }
    if set.is_empty() {
        return String::new();
    }
    set.sort_unstable();
    serde_json::to_string(&set).expect("texts are valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(tags: &[&str]) -> String {
        set_of(tags.iter().map(|tag| Cow::Borrowed(*tag)))
    }

    #[test]
    fn a_set_has_one_text_however_its_tags_come() {
        assert_eq!(set(&["b", "a", "", "b"]), r#"["a","b"]"#);
        assert_eq!(set(&["a", "b"]), set(&["b", "a", "a"]));
        assert_eq!(set(&["quo\"te\n"]), r#"["quo\"te\n"]"#);
        assert_eq!(set(&[""]), "");
    }

    #[test]
    fn clients_cannot_make_it_longer_than_a_name() {
        let many: Vec<String> = (0..100).map(|n| format!("tag-{n:03}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(serde_json::from_str::<Vec<String>>(&set(&many)).unwrap(), &many[..MOST_TAGS]);
        let control = "\u{1}".repeat(400);
        let long = "x".repeat(900);
        assert_eq!(set(&[&control, "a", &long, "b"]).len(), 10 + long.len() + 2);
        assert!(set(&["é".repeat(499).as_str()]).len() <= 1024);
    }
}
