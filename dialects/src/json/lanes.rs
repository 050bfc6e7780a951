//! Many bytes at a time: which of them end a plain run of a string. Plain loops over fixed arrays,
//! in a form that the compiler turns into vector instructions of whatever the target has.

/// 0xff where a byte ends a plain run (a quote, a backslash, a control character), else 0.
#[inline(always)]
fn stop(byte: u8) -> u8 {
    let stops = (byte == b'"') | (byte == b'\\') | (byte < 0x20);
    0u8.wrapping_sub(u8::from(stops))
}

/// The lane of the first byte that ends a plain run or is not ASCII; 16 if there is none.
#[inline(always)]
pub(super) fn first_mark(bytes: &[u8; 16]) -> usize {
    let mut marks = [0; 16];
    for (mark, &byte) in marks.iter_mut().zip(bytes) {
        *mark = stop(byte) | (byte & 0x80);
    }
    (u128::from_le_bytes(marks).trailing_zeros() / 8) as usize
}

/// Whether a byte ends a plain run, and whether any is not ASCII.
#[inline(always)]
pub(super) fn any_stop(bytes: &[u8; 64]) -> (bool, bool) {
    let (mut stops, mut seen) = (0, 0);
    for &byte in bytes {
        stops |= stop(byte);
        seen |= byte;
    }
    (stops != 0, seen >= 0x80)
}

/// A bit for each byte, lowest first: whether it ends a plain run.
#[inline(always)]
pub(super) fn stops(bytes: &[u8; 64]) -> u64 {
    // Of eight bytes of all ones or none, one bit each is kept, and a product gathers them on top.
    const ONE_EACH: u64 = 0x8040_2010_0804_0201;
    const GATHER: u64 = 0x0101_0101_0101_0101;
    let mut marks = [0; 64];
    for (mark, &byte) in marks.iter_mut().zip(bytes) {
        *mark = stop(byte);
    }
    let mut bits = 0;
    for (index, eight) in marks.as_chunks::<8>().0.iter().enumerate() {
        let gathered = (u64::from_le_bytes(*eight) & ONE_EACH).wrapping_mul(GATHER) >> 56;
        bits |= gathered << (8 * index);
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
