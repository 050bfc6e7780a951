//! The ledger beside the invoice, where deployments have prices of their own and not every usage was seen. I/O through
//! the harness.

use std::collections::BTreeMap;

use tollgate_harness::objects::UPSTREAM_PREFIX;
use tollgate_harness::{Gateway, InvoiceRow, Mock, Response, SpendRow, ledger_rows};

use crate::price::{Price, usual};

/// Price lists by a deployment's name; a deployment that is not here has the harness's usual price.
#[derive(Clone, Debug, Default)]
pub struct Books {
    prices: BTreeMap<String, Price>,
}

/// How an attempt may end in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Hard,
    Soft,
}

/// `namespace/name` of a deployment without its namespace.
pub fn deployment_of(row: &SpendRow) -> &str {
    row.deployment.rsplit('/').next().unwrap_or(&row.deployment)
}

/// The name of the deployment that a bill is for.
pub fn billed_deployment(row: &InvoiceRow) -> &str {
    row.model.strip_prefix(UPSTREAM_PREFIX).unwrap_or(&row.model)
}

/// Sum of what the rows cost, nano-USD.
pub fn total(rows: &[SpendRow]) -> i64 {
    rows.iter().map(|row| row.cost_nano_usd).sum()
}

/// The `attempt_id` that attempt `number` of an answered call has.
///
/// # Panics
/// The answer does not tell its call.
pub fn attempt_id(headers: &Response, number: u128) -> String {
    let id = headers.header("x-litellm-call-id").expect("every answer tells its call").replace('-', "");
    format!("{:032x}", u128::from_str_radix(&id, 16).expect("a UUID") ^ number)
}

impl Books {
    pub fn price(mut self, deployment: &str, price: Price) -> Books {
        self.prices.insert(deployment.to_owned(), price);
        self
    }

    pub fn price_of(&self, deployment: &str) -> Price {
        self.prices.get(deployment).copied().unwrap_or_else(usual)
    }

    /// Nano-USD of one bill.
    pub fn bill(&self, row: &InvoiceRow) -> i64 {
        self.price_of(billed_deployment(row)).bill(row)
    }

    /// The whole invoice so far, nano-USD.
    pub fn invoice_total(&self, mock: &Mock) -> i64 {
        mock.invoice().iter().map(|row| self.bill(row)).sum()
    }

    /// Stops the gateway and compares: every bill is one `exact` row with the same tokens and cost; all else is
    /// `released`.
    ///
    /// # Panics
    /// They differ.
    pub async fn assert_exact(&self, gateway: &mut Gateway, mock: &Mock) -> Vec<SpendRow> {
        gateway.stop().await;
        let rows = ledger_rows(gateway.data());
        let billed = mock.invoice().into_iter().filter(|row| row.billed);
        let mut bills: Vec<Line> = billed.map(|row| self.bill_line(&row)).collect();
        let mut lines: Vec<Line> = rows.iter().filter(|row| row.outcome != "released").map(line).collect();
        bills.sort();
        lines.sort();
        assert_eq!(lines, bills, "the ledger (left) is not the invoice (right)");
        for row in &rows {
            let exact = row.outcome == "exact" || (row.outcome == "released" && row.cost_nano_usd == 0);
            assert!(exact, "usage was seen, so the row is exact: {row:?}");
        }
        rows
    }

    /// Stops the gateway and compares, deployment by deployment: as many rows as requests the provider saw; an `exact`
    /// row is a bill; each bill has a row; under [`Mode::Hard`] every other row costs no less than its bill and no more
    /// than its hold. Where a deployment had several attempts, the dearest bill is held against the dearest row.
    ///
    /// # Panics
    /// They differ; all differences are in the text.
    pub async fn assert_flagged(
        &self,
        gateway: &mut Gateway,
        mock: &Mock,
        mode: impl Fn(&str) -> Mode,
    ) -> Vec<SpendRow> {
        gateway.stop().await;
        let rows = ledger_rows(gateway.data());
        let faults = self.faults(&rows, &mock.invoice(), mode);
        assert!(faults.is_empty(), "{} faults in the books:\n{}", faults.len(), faults.join("\n"));
        rows
    }

    /// What [`Books::assert_flagged`] finds wrong.
    pub fn faults(&self, rows: &[SpendRow], invoice: &[InvoiceRow], mode: impl Fn(&str) -> Mode) -> Vec<String> {
        let mut faults = Vec::new();
        let mut by_deployment: BTreeMap<&str, (Vec<&SpendRow>, Vec<&InvoiceRow>)> = BTreeMap::new();
        for row in rows {
            by_deployment.entry(deployment_of(row)).or_default().0.push(row);
        }
        for row in invoice {
            by_deployment.entry(billed_deployment(row)).or_default().1.push(row);
        }
        for (name, (rows, seen)) in by_deployment {
            if rows.len() < seen.len() {
                faults.push(format!(
                    "{name}: the provider saw {} requests, the ledger {} attempts",
                    seen.len(),
                    rows.len()
                ));
            }
            let mut bills: Vec<&InvoiceRow> = seen.into_iter().filter(|row| row.billed).collect();
            for row in rows.iter().filter(|row| row.outcome == "exact") {
                match bills.iter().position(|bill| self.bill_line(bill) == line(row)) {
                    Some(at) => drop(bills.swap_remove(at)),
                    None => faults.push(format!("{name}: an exact row without its bill: {row:?}; bills: {bills:?}")),
                }
            }
            let mut flagged: Vec<&&SpendRow> = rows.iter().filter(|row| row.outcome != "exact").collect();
            for row in flagged.iter().filter(|row| row.outcome == "released" && row.cost_nano_usd != 0) {
                faults.push(format!("{name}: a released row that costs something: {row:?}"));
            }
            let hard = mode(name) == Mode::Hard;
            for row in flagged.iter().filter(|row| hard && row.cost_nano_usd > row.held_nano_usd) {
                faults.push(format!("{name}: a flagged row above its hold: {row:?}"));
            }
            bills.sort_by_key(|bill| std::cmp::Reverse(self.bill(bill)));
            flagged.sort_by_key(|row| (row.outcome != "released", row.cost_nano_usd));
            for bill in bills {
                match flagged.pop() {
                    None => faults.push(format!("{name}: billed, but without a row: {bill:?}")),
                    Some(row) if hard && row.cost_nano_usd < self.bill(bill) => {
                        let billed = self.bill(bill);
                        faults
                            .push(format!("{name}: the row is below the bill of {billed} nano-USD: {row:?}; {bill:?}"));
                    }
                    Some(_) => {}
                }
            }
        }
        faults
    }

    fn bill_line(&self, row: &InvoiceRow) -> Line {
        Line {
            deployment: billed_deployment(row).to_owned(),
            input: row.input_tokens,
            output: row.output_tokens,
            cache_read: row.cache_read,
            cache_write: row.cache_write_5m + row.cache_write_1h,
            reasoning: row.reasoning,
            cost_nano_usd: self.bill(row),
        }
    }
}

/// What ledger and invoice must agree on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    deployment: String,
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write: u64,
    reasoning: u64,
    cost_nano_usd: i64,
}

fn line(row: &SpendRow) -> Line {
    let tokens = |count: i64| u64::try_from(count).expect("tokens are never negative");
    Line {
        deployment: deployment_of(row).to_owned(),
        input: tokens(row.input_tokens),
        output: tokens(row.output_tokens),
        cache_read: tokens(row.cache_read_tokens),
        cache_write: tokens(row.cache_write_tokens),
        reasoning: tokens(row.reasoning_tokens),
        cost_nano_usd: row.cost_nano_usd,
    }
}
