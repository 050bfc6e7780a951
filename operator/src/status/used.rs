//! What was used, for columns: of budgets as the enforcing books say it, of keys, teams and deployments as proxies tell it
//! of this month. Until a new leader has read either, a status says what it said before. Pure.

use tollgate_allocator::tally::{Month, Of, Totals};
use tollgate_crds::BudgetUnit;
use tollgate_snapshot::GatewayName;

use super::{Pass, text};
use crate::facts::SpendFact;
use crate::world::{Figures, Seen};

impl Pass<'_> {
    /// Of this month, over all gateways. `None`: it is not known yet.
    pub(super) fn tally(&mut self, of: Of, namespace: &str, name: &str) -> Option<Totals> {
        let thing = (namespace.to_owned(), name.to_owned());
        let month = Month::of(self.timestamp.as_millisecond());
        let mut sum = Totals { month, ..Totals::default() };
        for gateway @ GatewayName { namespace, name } in self.compiled.snapshots.keys() {
            let Some(tallies) = self.known.tallies.get(&(namespace.clone(), name.clone())) else {
                // Of a gateway that cannot be run nothing will be known.
                if self.gateways.is_served(gateway) {
                    return None;
                }
                continue;
            };
            let Some(totals) = tallies.get(of, &thing).filter(|totals| totals.month == month) else { continue };
            sum.requests = sum.requests.saturating_add(totals.requests);
            sum.tokens = sum.tokens.saturating_add(totals.tokens);
            sum.nano_usd = sum.nano_usd.saturating_add(totals.nano_usd);
        }
        if sum != (Totals { month, ..Totals::default() }) {
            self.will_change(Month::ends_after(self.now));
        }
        Some(sum)
    }

    /// REQUESTS and TOKENS; none where nothing was used.
    pub(super) fn counts(tally: Option<Totals>, before: &Seen) -> (Option<i64>, Option<i64>) {
        match tally {
            Some(Totals { requests, tokens, .. }) => {
                let is_used = requests > 0 || tokens > 0;
                (is_used.then_some(requests), is_used.then_some(tokens))
            }
            None => before.figures.as_deref().map_or((None, None), |figures| (figures.requests, figures.tokens)),
        }
    }

    /// SPENT this month; none where nothing was spent.
    pub(super) fn spent_this_month(tally: Option<Totals>, before: &Seen) -> Option<String> {
        match tally {
            Some(Totals { nano_usd, .. }) => (nano_usd > 0).then(|| text::amount(nano_usd, BudgetUnit::Usd)),
            None => before.figures.as_deref()?.spent.clone(),
        }
    }

    /// SPENT and USED% of a budget, by its id and unit.
    pub(super) fn spent_of(&self, id: &str, unit: BudgetUnit, before: &Seen) -> (Option<String>, Option<String>) {
        let Figures { spent, used_percent, .. } = self.figures_of(self.spend(id), None, unit, before);
        (spent, used_percent)
    }

    /// What a budget's status says of its spend. `fullest`: whose USED% it is, where it is another's.
    pub(super) fn figures_of(
        &self,
        spend: Option<SpendFact>,
        fullest: Option<SpendFact>,
        unit: BudgetUnit,
        before: &Seen,
    ) -> Figures {
        match spend {
            Some(spend) => Figures {
                spent: Some(text::spent(spend, unit)),
                used_percent: Some(text::used_percent(fullest.unwrap_or(spend))),
                held: Some(text::amount(spend.held, unit)),
                ..Figures::default()
            },
            None if self.is_spend_read() => Figures::default(),
            None => before.figures.as_deref().cloned().unwrap_or_default(),
        }
    }

    /// Whether the books of all gateways were read, so that what they do not have was not used.
    fn is_spend_read(&self) -> bool {
        let mut gateways = self.compiled.snapshots.keys();
        gateways
            .all(|GatewayName { namespace, name }| self.known.spend.contains_key(&(namespace.clone(), name.clone())))
    }
}
