//! Rows as PostgreSQL's binary COPY takes them, names in place of numbers. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::Type;

use crate::names::Names;
use crate::store::Row;

/// The columns that are written, in this order.
pub const COLUMNS: &str = "started_at, attempt_id, request_id, attempt_no, gateway, namespace, key, team, user_name, \
    end_user, tags, model, served_model, deployment, provider, price, nano_usd, held_nano_usd, input_tokens, \
    output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, status, outcome, over_hold, duration_ms, \
    first_byte_ms";

const COLUMN_COUNT: i16 = 28;

/// Longer texts are cut: five of them are the key of a sum, which an index must be able to hold. Bytes.
const MOST_TEXT: usize = 480;

/// Milliseconds from 1970 to 2000, which is when time begins there.
const EPOCH_MS: i64 = 946_684_800_000;

/// Puts names to numbers. Keeps what it looked up.
pub struct Encoder {
    names: Arc<Names>,
    known: Vec<Arc<str>>,
    /// Fields of tags, by the number of their set.
    tag_sets: HashMap<u32, Arc<[u8]>, foldhash::fast::RandomState>,
}

impl Encoder {
    pub fn new(names: Arc<Names>) -> Encoder {
        Encoder { names, known: Vec::new(), tag_sets: HashMap::default() }
    }

    /// A whole stream for COPY.
    pub fn encode(&mut self, gateway: &str, rows: &[Row]) -> Vec<u8> {
        let highest = rows.iter().map(|row| row.intent.highest_name()).max().unwrap_or(0);
        if highest as usize > self.known.len() {
            self.known.extend(self.names.above(self.known.len()));
        }
        let mut out = Vec::with_capacity(64 + rows.len() * 512);
        out.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        for row in rows {
            self.row(gateway, row, &mut out);
        }
        out.extend_from_slice(&(-1i16).to_be_bytes());
        out
    }

    fn row(&mut self, gateway: &str, row: &Row, out: &mut Vec<u8>) {
        let (intent, settlement) = (&row.intent, row.settlement());
        out.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
        let started_us = intent.start.started_at_ms.saturating_sub(EPOCH_MS).saturating_mul(1000);
        field(out, &started_us.to_be_bytes());
        field(out, &intent.start.attempt_id.to_be_bytes());
        // An attempt's id is its call's, but for the last byte.
        field(out, &(intent.start.attempt_id ^ u128::from(intent.start.attempt_no)).to_be_bytes());
        field(out, &i16::from(intent.start.attempt_no).to_be_bytes());
        text(out, gateway);
        for name in [intent.start.namespace, intent.start.key, intent.start.team, intent.start.user] {
            self.name(out, name.0);
        }
        match (intent.start.end_user_name.0, intent.start.end_user) {
            (0, 0) => text(out, ""),
            (0, hash) => text(out, &format!("#{hash:016x}")),
            (name, _) => self.name(out, name),
        }
        self.tags(out, intent.start.tags.0);
        for name in [
            intent.start.model,
            intent.start.served_model,
            intent.start.deployment,
            intent.start.provider,
            intent.start.price_version,
        ] {
            self.name(out, name.0);
        }
        let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for number in [
            settlement.actual.nano_usd,
            intent.start.hold.nano_usd,
            tokens(settlement.input_tokens),
            tokens(settlement.output_tokens),
            tokens(settlement.cache_read_tokens),
            tokens(settlement.cache_write_tokens),
            tokens(settlement.reasoning_tokens),
        ] {
            field(out, &number.to_be_bytes());
        }
        field(out, &(settlement.status as i16).to_be_bytes());
        text(out, settlement.outcome.word());
        field(out, &[u8::from(intent.over_hold)]);
        for ms in [settlement.duration_ms, settlement.first_byte_ms] {
            field(out, &i32::try_from(ms).unwrap_or(i32::MAX).to_be_bytes());
        }
    }

    fn name(&self, out: &mut Vec<u8>, number: u32) {
        match (number as usize).checked_sub(1).map(|at| self.known.get(at)) {
            None => text(out, ""),
            Some(Some(name)) => text(out, name),
            Some(None) => text(out, &format!("lost-name-{number}")),
        }
    }

    /// A one-dimensional array of text.
    fn tags(&mut self, out: &mut Vec<u8>, set: u32) {
        let known = &self.known;
        let array = self.tag_sets.entry(set).or_insert_with(|| {
            let name = (set as usize).checked_sub(1).and_then(|at| known.get(at));
            let tags: Vec<String> = name.and_then(|name| serde_json::from_str(name).ok()).unwrap_or_default();
            let mut array = Vec::new();
            let dimensions = i32::from(!tags.is_empty());
            array.extend_from_slice(&dimensions.to_be_bytes());
            array.extend_from_slice(&0i32.to_be_bytes());
            array.extend_from_slice(&Type::TEXT.oid().to_be_bytes());
            if !tags.is_empty() {
                array.extend_from_slice(&(tags.len() as i32).to_be_bytes());
                array.extend_from_slice(&1i32.to_be_bytes());
                tags.iter().for_each(|tag| text(&mut array, tag));
            }
            array.into()
        });
        field(out, array);
    }
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(MOST_TEXT)];
    if text.contains('\0') {
        // The one character that a text there cannot hold.
        return field(out, text.replace('\0', " ").as_bytes());
    }
    field(out, text.as_bytes());
}
