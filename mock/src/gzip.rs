//! Gzip without compressing: stored blocks, which every decoder reads. Pure.

/// Longest stored block of DEFLATE, RFC 1951 section 3.2.4. Bytes.
const BLOCK: usize = 0xffff;

/// A gzip file (RFC 1952) of `data`.
pub(crate) fn encode(data: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = data.chunks(BLOCK).peekable();
    if blocks.peek().is_none() {
        file.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        file.push(u8::from(blocks.peek().is_none()));
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(block);
    }
    file.extend(crc32fast::hash(data).to_le_bytes());
    file.extend((data.len() as u32).to_le_bytes());
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_block_carries_the_data_between_head_and_sums() {
        let file = encode(b"hi");
        assert_eq!(&file[10..17], [1, 2, 0, 0xfd, 0xff, b'h', b'i']);
        assert_eq!(&file[17..], [crc32fast::hash(b"hi").to_le_bytes(), 2u32.to_le_bytes()].concat());
    }

    #[test]
    fn long_data_takes_more_than_one_block() {
        let file = encode(&vec![b'x'; BLOCK + 1]);
        assert_eq!(file[10], 0);
        assert_eq!(&file[10 + 5 + BLOCK..10 + 5 + BLOCK + 6], [1, 1, 0, 0xfe, 0xff, b'x']);
    }
}
