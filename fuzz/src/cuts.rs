//! One input in pieces, as a network would deliver it.

/// The ways in which an input is delivered: at once, byte by byte, and in pieces drawn from the input.
pub(crate) fn deliveries(input: &[u8]) -> [Vec<&[u8]>; 3] {
    [vec![input], input.chunks(1).collect(), pieces(input)]
}

/// Pieces of 0 to 31 bytes; the same input is always cut alike.
fn pieces(input: &[u8]) -> Vec<&[u8]> {
    let mut state = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut rest = input;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let (piece, after) = rest.split_at(rest.len().min((state >> 59) as usize));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
