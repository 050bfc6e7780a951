//! Many bytes at a time: which of them end a plain run of a string. A word holds eight bytes, and
//! plain arithmetic on words in fixed arrays is what compilers turn into vector instructions of
//! whatever the target has; comparing byte by byte is not.

/// The top bit of each byte of a word.
const TOP: u64 = all(0x80);

/// A word of eight times this byte.
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The top bit of each byte is set where it is neither a quote, a backslash nor a control
/// character. Exact: no sum of seven bits carries into the next byte.
#[inline(always)]
fn plain(word: u64) -> u64 {
    let low = word & all(0x7f);
    let no_control = low + all(0x80 - 0x20);
    let no_quote = (low ^ all(b'"')) + all(0x7f);
    let no_backslash = (low ^ all(b'\\')) + all(0x7f);
    (no_control & no_quote & no_backslash) | word
}

/// The lane of the first byte that ends a plain run or is not ASCII; 16 if there is none.
#[inline(always)]
pub(super) fn first_mark(bytes: &[u8; 16]) -> usize {
    let mark = |word: u64| (!plain(word) | word) & TOP;
    let words = u128::from_le_bytes(*bytes);
    let near = mark(words as u64);
    if near != 0 {
        return near.trailing_zeros() as usize / 8;
    }
    8 + mark((words >> 64) as u64).trailing_zeros() as usize / 8
}

/// Whether a byte ends a plain run, and whether any is not ASCII.
#[inline(always)]
pub(super) fn any_stop(bytes: &[u8; 64]) -> (bool, bool) {
    let (mut all_plain, mut seen) = (u64::MAX, 0);
    for eight in bytes.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*eight);
        all_plain &= plain(word);
        seen |= word;
    }
    (all_plain & TOP != TOP, seen & TOP != 0)
}

/// A bit for each byte, lowest first: whether it ends a plain run.
#[inline(always)]
pub(super) fn stops(bytes: &[u8; 64]) -> u64 {
    let mut bits = 0;
    for (index, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
        // Eight bits that stand eight apart are moved together in three steps, by shifts alone:
        // vectors of the baseline have no product of words.
        let mut gathered = (!plain(u64::from_le_bytes(*eight)) & TOP) >> 7;
        gathered |= gathered >> 7;
        gathered |= gathered >> 14;
        gathered |= gathered >> 28;
        bits |= (gathered & 0xff) << (8 * index);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_classed_rightly_in_every_lane() {
        for byte in 0..=u8::MAX {
            let ends = byte == b'"' || byte == b'\\' || byte < 0x20;
            for lane in 0..64 {
                let mut bytes = [b'a'; 64];
                bytes[lane] = byte;
                assert_eq!(any_stop(&bytes), (ends, byte >= 0x80), "byte {byte:#x} in lane {lane}");
                assert_eq!(stops(&bytes), u64::from(ends) << lane, "byte {byte:#x} in lane {lane}");
                if let Some(near) = bytes.first_chunk::<16>().filter(|_| lane < 16) {
                    let expected = if ends || byte >= 0x80 { lane } else { 16 };
                    assert_eq!(first_mark(near), expected, "byte {byte:#x} in lane {lane}");
                }
            }
        }
    }

    #[test]
    fn several_marks_are_all_told() {
        let mut bytes = [b'a'; 64];
        for lane in [0, 7, 8, 31, 63] {
            bytes[lane] = b'"';
        }
        assert_eq!(stops(&bytes), 1 | 1 << 7 | 1 << 8 | 1 << 31 | 1 << 63);
        assert_eq!(stops(&[0; 64]), u64::MAX);
    }
}
