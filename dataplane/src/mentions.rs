//! What a call says about itself that budgets may select by or count apart: its tags and its end user. Read only where a
//! budget of the caller asks for it.

use std::borrow::Cow;
use std::sync::Arc;

use tollgate_ledger::Budget;
use tollgate_snapshot::model::{Deployment, KeyHash, Name, PerCall};

use crate::admit::Admitted;
use crate::core::Core;
use crate::error::{GatewayError, Result};
use crate::hold::Budgets;

/// Longer names, and those with characters that no log should hold, are told apart by their hash.
const LONGEST_MEMBER: usize = 128;

/// Tags and end user of one call.
pub struct Mentions<'a> {
    /// Of the key and of the request, each once.
    pub tags: Vec<Cow<'a, str>>,
    end_user: Option<Cow<'a, str>>,
}

impl<'a> Mentions<'a> {
    pub fn of(admitted: &'a Admitted) -> Mentions<'a> {
        let call = &admitted.call;
        let policy = admitted.caller.policy();
        let of_key = policy.into_iter().flat_map(|policy| &policy.tags).map(|tag| Cow::Borrowed(&**tag));
        let of_header = call.options.tags.iter().map(|tag| Cow::Borrowed(tag.as_str()));
        let mut tags: Vec<Cow<'a, str>> = of_key.chain(of_header).chain(call.head.tags(&call.body)).collect();
        tags.retain(|tag| !tag.is_empty());
        tags.sort_unstable();
        tags.dedup();
        Mentions { tags, end_user: call.end_user().filter(|name| !name.is_empty()) }
    }

    /// Adds the budgets of a row that count this call. False: none does.
    ///
    /// # Errors
    /// More end users or tags are counted apart than there is room for.
    pub fn add(
        &self,
        core: &Core,
        admitted: &Admitted,
        row: u32,
        deployment: &Deployment,
        budgets: &mut Budgets,
    ) -> Result<bool> {
        let tables = &admitted.caller.tables;
        let budget = &tables.snapshot.budgets[row as usize];
        let is_listed = |list: &[Name], name: &str| list.is_empty() || list.iter().any(|listed| **listed == *name);
        if !budget.tags.is_empty() && !self.tags.iter().any(|tag| is_listed(&budget.tags, tag)) {
            return Ok(false);
        }
        let end_user = self.end_user.as_deref();
        if !budget.end_users.is_empty() && !end_user.is_some_and(|user| is_listed(&budget.end_users, user)) {
            return Ok(false);
        }
        let Some((per, members)) = budget.per.zip(tables.members(row)) else {
            push(budgets, tables.budget(row, &core.shared.builder).clone());
            return Ok(true);
        };
        let before = budgets.len();
        let mut add = |member: &str| -> Result<()> {
            let found = core.shared.builder.ledger.member(members, &member_name(member));
            match found {
                Ok(budget) => push(budgets, budget),
                Err(tollgate_ledger::TooMany) => {
                    return Err(GatewayError::BudgetFull { budget: budget.id.to_string() }.into());
                }
            }
            Ok(())
        };
        match per {
            PerCall::EndUser => end_user.map_or(Ok(()), &mut add)?,
            PerCall::Model => add(&admitted.model)?,
            PerCall::Provider => add(&deployment.provider)?,
            PerCall::Tag => self.tags.iter().filter(|tag| is_listed(&budget.tags, tag)).try_for_each(|tag| add(tag))?,
        }
        Ok(budgets.len() > before)
    }
}

/// One account may be reached by several rows: held once.
pub fn push(budgets: &mut Budgets, budget: Arc<Budget>) {
    if !budgets.iter().any(|other| Arc::ptr_eq(other, &budget)) {
        budgets.push(budget);
    }
}

/// What stands behind the `/` of the account's name.
fn member_name(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST_MEMBER && !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("sha256:{}", KeyHash::of(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_long_or_strange_become_their_hash() {
        assert_eq!(member_name("alice@example.com"), "alice@example.com");
        assert_eq!(member_name(&"x".repeat(128)).len(), 128);
        for strange in ["x".repeat(129), "a\nb".to_owned()] {
            let name = member_name(&strange);
            assert!(name.starts_with("sha256:") && name.len() == 71, "{name}");
        }
    }
}
