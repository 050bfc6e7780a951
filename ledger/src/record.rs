//! One attempt in the journal: a slot of fixed size with two parts, each under its own checksum. The intent is written
//! before dispatch, the settlement beside it afterwards. Where an attempt holds less than its intent says, a mark of what
//! it holds stands in the place of the settlement meanwhile. Pure: bytes in, bytes out.

use crate::terms::{Amounts, AttemptStart, NameId, Outcome, Settlement};

/// Size of a slot.
pub const SLOT_BYTES: usize = 256;

/// Budgets that can apply to one attempt.
pub const MAX_BUDGETS: usize = 16;

/// Where the settlement begins in a slot.
pub const SETTLEMENT_AT: usize = 176;

/// Where it began in [`Layout::First`], which has the intent without its last names.
const FIRST_SETTLEMENT_AT: usize = 160;

/// Where the names are that came with the second layout; four bytes after them are free.
const LATER_NAMES_AT: usize = FIRST_SETTLEMENT_AT;

/// Bytes of an intent.
pub const INTENT_BYTES: usize = SETTLEMENT_AT;

/// Bytes of a settlement.
pub const SETTLEMENT_BYTES: usize = 80;

/// Bytes of a mark.
pub const MARK_BYTES: usize = 24;

/// Where a settlement has its outcome; no outcome has this number, so that neither is taken for the other.
const MARK: u8 = 0xe5;

/// Marks a slot as used, so that an intent is never all zero.
const USED: u8 = 0xa5;

/// Actual amounts went above the hold.
const FLAG_OVER_HOLD: u8 = 1;

/// Which slot of which segment: part of each checksum, so that a stale or misplaced record never counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub segment: u64,
    pub slot: u32,
}

/// How the slots of a segment are laid out; its header says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The first one, still read.
    First,
    /// What is written.
    Current,
}

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all slots are intents, and a box for each would cost more")]
pub enum Slot {
    /// Never written.
    Empty,
    Intent(Intent),
    /// Torn or damaged.
    Bad,
}

/// An attempt that was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// As it was when it was admitted.
    pub start: AttemptStart,
    accounts: [u32; MAX_BUDGETS],
    account_count: u8,
    /// What it holds, where that is less than its intent says. `None` as soon as it is settled, and where the mark is
    /// torn.
    part: Option<Amounts>,
    /// `None` while in flight, and where the settlement is torn.
    pub settlement: Option<Settlement>,
    pub over_hold: bool,
}

impl Intent {
    /// The accounts it is held in.
    pub fn accounts(&self) -> &[u32] {
        &self.accounts[..usize::from(self.account_count)]
    }

    /// What it costs as far as can be known: without a settlement, what it holds.
    pub fn cost(&self) -> Amounts {
        self.settlement.map_or_else(|| self.held(), |settlement| settlement.actual)
    }

    /// What it holds while it is in flight.
    pub fn held(&self) -> Amounts {
        self.part.unwrap_or(self.start.hold)
    }

    /// The highest name number it refers to.
    pub fn highest_name(&self) -> u32 {
        let AttemptStart { key, team, user, model, deployment, provider, namespace, price_version, .. } = &self.start;
        let AttemptStart { end_user_name, tags, served_model, .. } = &self.start;
        let names = [key, team, user, model, deployment, provider, namespace, price_version];
        let later = [served_model, tags, end_user_name];
        names.into_iter().chain(later).map(|name| name.0).max().unwrap_or(0)
    }
}

/// Ends an attempt that nobody can settle any more: the whole hold is charged.
pub fn charged(hold: Amounts, outcome: Outcome) -> Settlement {
    Settlement {
        actual: hold,
        input_tokens: 0,
        output_tokens: 0,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        status: 0,
        outcome,
        duration_ms: 0,
        first_byte_ms: 0,
    }
}

/// The bytes of a slot that says this.
pub fn encode(place: Place, intent: &Intent) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..INTENT_BYTES].copy_from_slice(&encode_intent(place, &intent.start, intent.accounts()));
    match (&intent.settlement, &intent.part) {
        (Some(settlement), _) => {
            slot[SETTLEMENT_AT..].copy_from_slice(&encode_settlement(place, settlement, intent.over_hold));
        }
        (None, Some(part)) => {
            slot[SETTLEMENT_AT..SETTLEMENT_AT + MARK_BYTES].copy_from_slice(&encode_mark(place, part));
        }
        (None, None) => {}
    }
    slot
}

/// The bytes of a mark, for the place of the settlement that will replace it. A request is one, however much of it is
/// held. While one is replaced by another or by the settlement, a process that dies leaves neither: the whole of what the
/// intent says counts then.
pub fn encode_mark(place: Place, part: &Amounts) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[4] = MARK;
    bytes[8..16].copy_from_slice(&part.nano_usd.to_le_bytes());
    bytes[16..24].copy_from_slice(&part.tokens.to_le_bytes());
    let checksum = checksum(place, 2, &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The bytes of an intent.
pub fn encode_intent(place: Place, start: &AttemptStart, accounts: &[u32]) -> [u8; INTENT_BYTES] {
    let AttemptStart {
        attempt_id,
        started_at_ms,
        key,
        team,
        user,
        end_user,
        end_user_name,
        tags,
        model,
        served_model,
        deployment,
        provider,
        namespace,
        attempt_no,
        price_version,
        hold,
    } = start;
    let mut bytes = [0; INTENT_BYTES];
    bytes[4] = accounts.len() as u8;
    bytes[5] = *attempt_no;
    bytes[7] = USED;
    bytes[8..24].copy_from_slice(&attempt_id.to_le_bytes());
    bytes[24..32].copy_from_slice(&started_at_ms.to_le_bytes());
    let names = [key, team, user, model, deployment, provider, namespace, price_version];
    for (at, name) in names.into_iter().enumerate() {
        bytes[32 + 4 * at..36 + 4 * at].copy_from_slice(&name.0.to_le_bytes());
    }
    bytes[64..72].copy_from_slice(&end_user.to_le_bytes());
    put_amounts(&mut bytes[72..96], hold);
    for (at, account) in accounts.iter().take(MAX_BUDGETS).enumerate() {
        bytes[96 + 4 * at..100 + 4 * at].copy_from_slice(&account.to_le_bytes());
    }
    for (at, name) in [served_model, tags, end_user_name].into_iter().enumerate() {
        bytes[LATER_NAMES_AT + 4 * at..LATER_NAMES_AT + 4 + 4 * at].copy_from_slice(&name.0.to_le_bytes());
    }
    let checksum = checksum(place, 0, &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The bytes of a settlement, for the place of its intent.
pub fn encode_settlement(place: Place, settlement: &Settlement, over_hold: bool) -> [u8; SETTLEMENT_BYTES] {
    let Settlement {
        actual,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_write_tokens,
        reasoning_tokens,
        status,
        outcome,
        duration_ms,
        first_byte_ms,
    } = settlement;
    let mut bytes = [0; SETTLEMENT_BYTES];
    bytes[4] = *outcome as u8;
    bytes[5] = if over_hold { FLAG_OVER_HOLD } else { 0 };
    bytes[6..8].copy_from_slice(&status.to_le_bytes());
    bytes[8..12].copy_from_slice(&duration_ms.to_le_bytes());
    bytes[12..16].copy_from_slice(&first_byte_ms.to_le_bytes());
    put_amounts(&mut bytes[16..40], actual);
    let usage = [input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens];
    for (at, tokens) in usage.into_iter().enumerate() {
        bytes[40 + 8 * at..48 + 8 * at].copy_from_slice(&tokens.to_le_bytes());
    }
    let checksum = checksum(place, 1, &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads a slot of [`SLOT_BYTES`].
pub fn decode(layout: Layout, place: Place, slot: &[u8]) -> Slot {
    let (intent, rest) = slot.split_at(match layout {
        Layout::First => FIRST_SETTLEMENT_AT,
        Layout::Current => SETTLEMENT_AT,
    });
    if intent.iter().all(|byte| *byte == 0) {
        return if rest.iter().all(|byte| *byte == 0) { Slot::Empty } else { Slot::Bad };
    }
    let count = intent[4];
    if intent[7] != USED || usize::from(count) > MAX_BUDGETS || u32_at(intent, 0) != checksum(place, 0, &intent[4..]) {
        return Slot::Bad;
    }
    let name = |at: usize| NameId(u32_at(intent, 32 + 4 * at));
    let later_name = |at: usize| match layout {
        Layout::First => NameId(0),
        Layout::Current => NameId(u32_at(intent, LATER_NAMES_AT + 4 * at)),
    };
    let mut accounts = [0; MAX_BUDGETS];
    for (at, account) in accounts.iter_mut().enumerate() {
        *account = u32_at(intent, 96 + 4 * at);
    }
    let settlement = decode_settlement(place, &rest[..SETTLEMENT_BYTES]);
    let hold = amounts_at(intent, 72);
    let part = decode_mark(place, &rest[..MARK_BYTES]);
    Slot::Intent(Intent {
        start: AttemptStart {
            attempt_id: u128::from(u64_at(intent, 8)) | u128::from(u64_at(intent, 16)) << 64,
            started_at_ms: u64_at(intent, 24) as i64,
            key: name(0),
            team: name(1),
            user: name(2),
            model: name(3),
            deployment: name(4),
            provider: name(5),
            namespace: name(6),
            price_version: name(7),
            served_model: later_name(0),
            tags: later_name(1),
            end_user_name: later_name(2),
            end_user: u64_at(intent, 64),
            hold,
            attempt_no: intent[5],
        },
        accounts,
        account_count: count,
        part: part.map(|part| Amounts { requests: hold.requests, ..part }),
        over_hold: settlement.is_some() && rest[5] & FLAG_OVER_HOLD != 0,
        settlement,
    })
}

fn decode_settlement(place: Place, bytes: &[u8]) -> Option<Settlement> {
    let outcome = Outcome::from_number(bytes[4])?;
    if u32_at(bytes, 0) != checksum(place, 1, &bytes[4..]) {
        return None;
    }
    Some(Settlement {
        actual: amounts_at(bytes, 16),
        input_tokens: u64_at(bytes, 40),
        output_tokens: u64_at(bytes, 48),
        cache_read_tokens: u64_at(bytes, 56),
        cache_write_tokens: u64_at(bytes, 64),
        reasoning_tokens: u64_at(bytes, 72),
        status: u16::from_le_bytes([bytes[6], bytes[7]]),
        outcome,
        duration_ms: u32_at(bytes, 8),
        first_byte_ms: u32_at(bytes, 12),
    })
}

fn decode_mark(place: Place, bytes: &[u8]) -> Option<Amounts> {
    if bytes[4] != MARK || u32_at(bytes, 0) != checksum(place, 2, &bytes[4..]) {
        return None;
    }
    Some(Amounts { nano_usd: u64_at(bytes, 8) as i64, tokens: u64_at(bytes, 16) as i64, requests: 0 })
}

fn checksum(place: Place, part: u32, bytes: &[u8]) -> u32 {
    let seed = (place.segment as u32) ^ ((place.segment >> 32) as u32).rotate_left(7);
    let seed = seed.wrapping_mul(0x9e37_79b1) ^ place.slot.wrapping_mul(0x85eb_ca6b) ^ (part << 31);
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn put_amounts(bytes: &mut [u8], amounts: &Amounts) {
    let Amounts { nano_usd, tokens, requests } = amounts;
    for (at, amount) in [nano_usd, tokens, requests].into_iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&amount.to_le_bytes());
    }
}

fn amounts_at(bytes: &[u8], at: usize) -> Amounts {
    Amounts {
        nano_usd: u64_at(bytes, at) as i64,
        tokens: u64_at(bytes, at + 8) as i64,
        requests: u64_at(bytes, at + 16) as i64,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place { segment: (3 << 24) + 7, slot: 12 };

    fn start(id: u128, nano_usd: i64) -> AttemptStart {
        AttemptStart {
            attempt_id: id,
            started_at_ms: 1_795_000_000_000,
            key: NameId(1),
            team: NameId(2),
            user: NameId(3),
            end_user: u64::MAX,
            end_user_name: NameId(11),
            tags: NameId(10),
            model: NameId(4),
            served_model: NameId(9),
            deployment: NameId(5),
            provider: NameId(6),
            namespace: NameId(7),
            attempt_no: 2,
            price_version: NameId(8),
            hold: Amounts { nano_usd, tokens: 5, requests: 1 },
        }
    }

    fn slot(start: &AttemptStart, settlement: Option<&Settlement>) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..INTENT_BYTES].copy_from_slice(&encode_intent(PLACE, start, &[9, 10]));
        if let Some(settlement) = settlement {
            slot[SETTLEMENT_AT..SETTLEMENT_AT + SETTLEMENT_BYTES]
                .copy_from_slice(&encode_settlement(PLACE, settlement, true));
        }
        slot
    }

    fn read(place: Place, slot: &[u8]) -> Option<Intent> {
        match decode(Layout::Current, place, slot) {
            Slot::Intent(intent) => Some(intent),
            Slot::Empty | Slot::Bad => None,
        }
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let settlement = Settlement { input_tokens: 9, status: 200, ..charged(start(1, 70).hold, Outcome::Exact) };
        let intent = read(PLACE, &slot(&start(u128::MAX - 5, 70), Some(&settlement))).unwrap();
        assert_eq!(
            (intent.start.attempt_id, intent.start.key, intent.start.price_version),
            (u128::MAX - 5, NameId(1), NameId(8))
        );
        assert_eq!(
            (intent.start.served_model, intent.start.tags, intent.start.end_user_name),
            (NameId(9), NameId(10), NameId(11))
        );
        assert_eq!((intent.accounts(), intent.highest_name(), intent.over_hold), (&[9, 10][..], 11, true));
        assert_eq!(intent.settlement, Some(settlement));
        assert_eq!(read(PLACE, &encode(PLACE, &intent)), Some(intent));
    }

    #[test]
    fn a_record_in_another_place_does_not_count() {
        let bytes = slot(&start(1, 70), None);
        let decode = |place, slot: &[u8]| decode(Layout::Current, place, slot);
        assert_eq!(decode(Place { slot: 13, ..PLACE }, &bytes), Slot::Bad);
        assert_eq!(decode(Place { segment: 7, ..PLACE }, &bytes), Slot::Bad);
        assert_eq!(decode(PLACE, &[0; SLOT_BYTES]), Slot::Empty);
    }

    /// The same attempt while it holds a part.
    fn partly(start: &AttemptStart, nano_usd: i64) -> [u8; SLOT_BYTES] {
        let mut slot = slot(start, None);
        let part = Amounts { nano_usd, tokens: 3, requests: 9 };
        slot[SETTLEMENT_AT..SETTLEMENT_AT + MARK_BYTES].copy_from_slice(&encode_mark(PLACE, &part));
        slot
    }

    #[test]
    fn a_mark_says_what_is_held_until_the_settlement_takes_its_place() {
        let mut bytes = partly(&start(1, 70), 20);
        let intent = read(PLACE, &bytes).unwrap();
        let held = Amounts { nano_usd: 20, tokens: 3, requests: 1 };
        assert_eq!((intent.held(), intent.cost(), intent.start.hold.nano_usd), (held, held, 70));
        assert_eq!(read(PLACE, &encode(PLACE, &intent)), Some(intent));
        let settlement = charged(Amounts { nano_usd: 11, tokens: 2, requests: 1 }, Outcome::Exact);
        let new = encode_settlement(PLACE, &settlement, false);
        for torn in 1..SETTLEMENT_BYTES {
            bytes[SETTLEMENT_AT..SETTLEMENT_AT + torn].copy_from_slice(&new[..torn]);
            let cost = read(PLACE, &bytes).unwrap().cost().nano_usd;
            assert!(matches!(cost, 11 | 20 | 70), "{torn} {cost}");
        }
        bytes[SETTLEMENT_AT..].copy_from_slice(&new);
        assert_eq!(read(PLACE, &bytes).unwrap().cost(), settlement.actual);
    }

    /// A slot of the first layout, byte for byte: an attempt with 8 names and 2 accounts, settled.
    const FIRST: &str = include_str!("testdata/slot-first.hex");

    #[test]
    fn a_slot_of_the_first_layout_is_read() {
        let digits: Vec<u8> =
            FIRST.bytes().filter_map(|digit| (digit as char).to_digit(16)).map(|digit| digit as u8).collect();
        let slot: Vec<u8> = digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect();
        let Slot::Intent(intent) = decode(Layout::First, PLACE, &slot) else { panic!("not read") };
        let Some(settlement) = intent.settlement else { panic!("no settlement") };
        assert_eq!(
            (intent.start.attempt_id, intent.start.key, intent.start.price_version),
            (u128::MAX - 5, NameId(1), NameId(8))
        );
        assert_eq!((intent.accounts(), intent.highest_name(), intent.over_hold), (&[9, 10][..], 8, true));
        assert_eq!((intent.start.served_model, intent.start.tags, intent.start.end_user_name), Default::default());
        assert_eq!((settlement.input_tokens, settlement.status, settlement.actual.nano_usd), (9, 200, 70));
        assert_eq!(decode(Layout::Current, PLACE, &slot), Slot::Bad);
    }

    proptest! {
        #[test]
        fn no_flipped_bit_changes_what_is_read(bit in 0..(SETTLEMENT_AT + SETTLEMENT_BYTES) * 8, nano_usd in 0..i64::MAX) {
            let settlement = charged(Amounts { nano_usd: nano_usd / 2, tokens: 1, requests: 1 }, Outcome::Exact);
            let mut bytes = slot(&start(7, nano_usd), Some(&settlement));
            let whole = read(PLACE, &bytes).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match decode(Layout::Current, PLACE, &bytes) {
                Slot::Empty => prop_assert!(false, "a used slot looks empty"),
                Slot::Bad => prop_assert!(bit / 8 < SETTLEMENT_AT),
                // A settlement that cannot be trusted is none: the hold counts.
                Slot::Intent(intent) => prop_assert_eq!(intent, Intent { settlement: None, over_hold: false, ..whole }),
            }
        }

        #[test]
        fn no_flipped_bit_makes_a_part_smaller(bit in 0..SLOT_BYTES * 8, part in 0..i64::MAX) {
            let mut bytes = partly(&start(7, i64::MAX), part);
            let whole = read(PLACE, &bytes).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match decode(Layout::Current, PLACE, &bytes) {
                Slot::Empty => prop_assert!(false, "a used slot looks empty"),
                Slot::Bad => prop_assert!(bit / 8 < SETTLEMENT_AT),
                Slot::Intent(intent) => {
                    let all = Intent { part: None, ..whole.clone() };
                    prop_assert!(intent == all || (intent == whole && bit / 8 >= SETTLEMENT_AT + MARK_BYTES));
                }
            }
        }
    }
}
