//! What conditions on a route's targets see of a call. Gathered when a condition asks, and once for a call; a call that
//! meets none pays nothing here. What a condition is, and what judging one may take, is in [`tollgate_snapshot::condition`].

use std::borrow::Cow;
use std::cell::OnceCell;

use tollgate_snapshot::condition::{Facts, Field, Table};

use crate::admit::Admitted;
use crate::tables::TargetEntry;

/// Headers that are not there for conditions: where calls go would tell what is in them.
const CREDENTIALS: [&str; 5] = ["authorization", "x-api-key", "api-key", "x-litellm-api-key", "cookie"];

/// The facts of one call.
pub struct CallFacts<'a> {
    admitted: &'a Admitted,
    end_user: OnceCell<Option<Cow<'a, str>>>,
    tags: OnceCell<Vec<Cow<'a, str>>>,
}

impl<'a> CallFacts<'a> {
    pub fn of(admitted: &'a Admitted) -> CallFacts<'a> {
        CallFacts { admitted, end_user: OnceCell::new(), tags: OnceCell::new() }
    }

    /// Whether a target's condition lets this call through.
    pub fn admit(&self, target: &TargetEntry) -> bool {
        match &target.condition {
            Some(condition) => condition.judge(self).holds,
            // A condition that cannot be read lets nobody through.
            None => !target.is_conditional,
        }
    }
}

impl Facts for CallFacts<'_> {
    fn text(&self, field: Field) -> &str {
        let Admitted { call, caller, model, .. } = self.admitted;
        let key = caller.key();
        match field {
            Field::Model => model,
            Field::EndUser => self.end_user.get_or_init(|| call.end_user()).as_deref().unwrap_or_default(),
            Field::KeyName => key.map_or("", |key| &key.name),
            Field::KeyNamespace => {
                let namespaces = &caller.tables.snapshot.namespaces;
                caller.policy().map_or("", |policy| &namespaces[policy.namespace as usize].name)
            }
            Field::Team => caller.team().map_or("", |team| &team.name),
            Field::User => key.and_then(|key| key.user.as_deref()).unwrap_or_default(),
        }
    }

    /// Of repeated headers the first.
    fn entry(&self, table: Table, name: &str) -> Option<&str> {
        match table {
            Table::Headers => {
                if CREDENTIALS.iter().any(|credential| credential.eq_ignore_ascii_case(name)) {
                    return None;
                }
                self.admitted.call.headers.get(name)?.to_str().ok()
            }
            Table::Labels => {
                let labels = &self.admitted.caller.policy()?.labels;
                // `compile` sorts them.
                let at = labels.binary_search_by(|(label, _)| (**label).cmp(name)).ok()?;
                Some(&*labels[at].1)
            }
        }
    }

    fn tags(&self) -> &[Cow<'_, str>] {
        let Admitted { call, caller, .. } = self.admitted;
        self.tags.get_or_init(|| {
            let of_key = caller.policy().into_iter().flat_map(|policy| &policy.tags).map(|tag| Cow::Borrowed(&**tag));
            let of_header = call.options.tags.iter().map(|tag| Cow::Borrowed(tag.as_str()));
            of_key.chain(of_header).chain(call.head.tags(&call.body)).collect()
        })
    }
}
