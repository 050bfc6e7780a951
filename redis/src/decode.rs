//! What the script answers, read into types.

use redis::Value;
use tollgate_allocator::{Answer, Report};

use crate::connection::StoreError;

/// What is said of the whole shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The server's clock, unix milliseconds.
    pub now_ms: i64,
    /// Grows when the server may have lost writes.
    pub epoch: i64,
    pub doubt: bool,
    /// Replicas that share what is left.
    pub replicas: usize,
    /// This call found it out.
    pub lost: bool,
    /// Budgets that somebody waits for.
    pub tight: Vec<String>,
}

/// What is said of one report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    pub answer: Answer,
    /// A closed account turned out to have spent so much less than it was charged.
    pub adjusted: i64,
    /// Of the budget's history.
    pub seq: i64,
    /// It would have got something but for the doubt.
    pub denied: bool,
    /// The server did not know of what it was granted before.
    pub late: bool,
    /// Replicas whose accounts were closed, because they are silent.
    pub gone: Vec<String>,
}

/// Reads the answer to `reports`. `limits`: of each, as it was sent.
///
/// # Errors
/// It is not what the script gives.
pub fn decode(value: Value, reports: &[&Report], limits: &[i64]) -> Result<(Header, Vec<Decided>), StoreError> {
    let Value::Array(parts) = value else { return Err(StoreError::Nonsense) };
    let mut parts = parts.into_iter();
    let header = parts.next().and_then(texts).and_then(header).ok_or(StoreError::Nonsense)?;
    let mut all = Vec::with_capacity(reports.len());
    for (report, limit) in reports.iter().zip(limits) {
        all.push(
            parts
                .next()
                .and_then(texts)
                .and_then(|texts| decided(texts, report, *limit))
                .ok_or(StoreError::Nonsense)?,
        );
    }
    Ok((header, all))
}

fn texts(value: Value) -> Option<Vec<String>> {
    let Value::Array(values) = value else { return None };
    let text = |value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    };
    values.into_iter().map(text).collect()
}

fn header(texts: Vec<String>) -> Option<Header> {
    let mut texts = texts.into_iter();
    Some(Header {
        now_ms: number(&mut texts)?,
        epoch: number(&mut texts)?,
        doubt: flag(&mut texts)?,
        replicas: usize::try_from(number(&mut texts)?).ok()?,
        lost: flag(&mut texts)?,
        tight: texts.collect(),
    })
}

fn decided(texts: Vec<String>, report: &Report, limit: i64) -> Option<Decided> {
    let mut texts = texts.into_iter();
    let answer = Answer {
        budget: report.budget.clone(),
        span: report.span.clone(),
        granted: number(&mut texts)?,
        limit,
        used_elsewhere: number(&mut texts)?,
        charged_elsewhere: number(&mut texts)?,
        tight: flag(&mut texts)?,
        closed: flag(&mut texts)?,
        unknown: flag(&mut texts)?,
    };
    Some(Decided {
        answer,
        adjusted: number(&mut texts)?,
        seq: number(&mut texts)?,
        denied: flag(&mut texts)?,
        late: flag(&mut texts)?,
        gone: texts.collect(),
    })
}

fn number(texts: &mut impl Iterator<Item = String>) -> Option<i64> {
    texts.next()?.parse().ok()
}

fn flag(texts: &mut impl Iterator<Item = String>) -> Option<bool> {
    Some(texts.next()? == "1")
}
