//! The body of a message of HTTP/1.1 out of the bytes that arrive: by length, in chunks, or to the end of the connection.
//! Pure; gives slices of what was received. Both legs of a call use it.

use bytes::{Bytes, BytesMut};

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Longest line of a chunk's size with its extensions, or of a trailer.
const MAX_LINE_BYTES: usize = 4 << 10;

/// Largest trailer section.
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// Where in a body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// Bytes left.
    Length(u64),
    ChunkSize,
    /// Bytes left of a chunk.
    Chunk(u64),
    ChunkEnd,
    /// Bytes of trailers so far.
    Trailers(usize),
    Close,
    Done,
}

/// What the bytes received so far hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// More bytes are needed.
    More,
    End,
}

impl From<Framing> for Decoder {
    fn from(framing: Framing) -> Decoder {
        match framing {
            Framing::Length(0) => Decoder::Done,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::ChunkSize,
            Framing::Close => Decoder::Close,
        }
    }
}

impl Decoder {
    /// Takes the next piece of the body off `input`.
    ///
    /// # Errors
    /// Chunks that are not.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match *self {
                Decoder::Done => return Ok(Piece::End),
                Decoder::Close if input.is_empty() => return Ok(Piece::More),
                Decoder::Close => return Ok(Piece::Data(input.split().freeze())),
                Decoder::Length(left) | Decoder::Chunk(left) => {
                    if input.is_empty() {
                        return Ok(Piece::More);
                    }
                    let here = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - here as u64;
                    *self = match *self {
                        Decoder::Length(_) if left == 0 => Decoder::Done,
                        Decoder::Length(_) => Decoder::Length(left),
                        _ if left == 0 => Decoder::ChunkEnd,
                        _ => Decoder::Chunk(left),
                    };
                    return Ok(Piece::Data(input.split_to(here).freeze()));
                }
                Decoder::ChunkSize | Decoder::ChunkEnd | Decoder::Trailers(_) => {
                    let Some(end) = memchr::memchr(b'\n', input) else {
                        if input.len() > MAX_LINE_BYTES {
                            return Err(Malformed("a line between chunks is too long"));
                        }
                        return Ok(Piece::More);
                    };
                    let line = input[..end].strip_suffix(b"\r");
                    let line = line.ok_or(Malformed("a line between chunks ends with a line feed alone"))?;
                    *self = self.after(line)?;
                    bytes::Buf::advance(input, end + 1);
                }
            }
        }
    }

    /// Where the byte behind this line stands.
    fn after(self, line: &[u8]) -> Result<Decoder, Malformed> {
        match self {
            Decoder::ChunkSize => match chunk_size(line) {
                Some(0) => Ok(Decoder::Trailers(0)),
                Some(size) => Ok(Decoder::Chunk(size)),
                None => Err(Malformed("the size of a chunk is not a number")),
            },
            Decoder::ChunkEnd if line.is_empty() => Ok(Decoder::ChunkSize),
            Decoder::ChunkEnd => Err(Malformed("a chunk is longer than its size")),
            Decoder::Trailers(_) if line.is_empty() => Ok(Decoder::Done),
            // Trailers tell us nothing; they are read to find the end.
            Decoder::Trailers(before) if before + line.len() <= MAX_TRAILER_BYTES => {
                Ok(Decoder::Trailers(before + line.len() + 2))
            }
            Decoder::Trailers(_) => Err(Malformed("the trailers are too large")),
            Decoder::Length(_) | Decoder::Chunk(_) | Decoder::Close | Decoder::Done => Ok(self),
        }
    }

    /// Bytes that are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Decoder::Length(left) => Some(*left),
            _ => None,
        }
    }
}

/// The number at the beginning of the line of a chunk; extensions follow.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    matches!(rest.first(), None | Some(b' ' | b'\t' | b';')).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type BodyAndRest = (Vec<u8>, Vec<u8>);

    /// The body in `text` when it arrives in pieces of these sizes, and what is left behind it. `None`: it did not end.
    fn decode(framing: Framing, text: &[u8], sizes: &[usize]) -> Result<Option<BodyAndRest>, Malformed> {
        let mut decoder = Decoder::from(framing);
        let (mut input, mut body, mut rest) = (BytesMut::new(), Vec::new(), text);
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*size));
            rest = after;
            input.extend_from_slice(piece);
            loop {
                match decoder.next(&mut input)? {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::End => return Ok(Some((body, [&input[..], rest].concat()))),
                    Piece::More => break,
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        Ok(None)
    }

    const CHUNKS: &[u8] =
        b"5\r\nhello\r\n00A;name=\"v\"; x\r\n0123456789\r\n1 \r\n\n\r\n0;last\r\nTrailer: x\r\nOther: y\r\n\r\nHTTP/1.1 200";

    #[test]
    fn chunks_are_read_whatever_the_pieces_they_arrive_in() {
        for size in 1..=CHUNKS.len() {
            let decoded = decode(Framing::Chunked, CHUNKS, &[size]).unwrap().unwrap();
            assert_eq!(decoded, (b"hello0123456789\n".to_vec(), b"HTTP/1.1 200".to_vec()), "{size}");
        }
        for cut in 0..CHUNKS.len() - 12 {
            assert_eq!(decode(Framing::Chunked, &CHUNKS[..cut], &[7]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn a_body_by_length_leaves_what_follows() {
        for size in 1..8 {
            let decoded = decode(Framing::Length(5), b"helloHTTP", &[size]).unwrap().unwrap();
            assert_eq!(decoded, (b"hello".to_vec(), b"HTTP".to_vec()));
        }
        assert_eq!(decode(Framing::Length(0), b"x", &[1]).unwrap().unwrap().0, b"");
        assert_eq!(decode(Framing::Length(6), b"hello", &[5]), Ok(None));
        assert_eq!(decode(Framing::Close, b"hello", &[5]), Ok(None));
    }

    #[test]
    fn what_is_not_a_chunk_is_refused() {
        let long = format!("1;{}", "x".repeat(MAX_LINE_BYTES));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(MAX_TRAILER_BYTES));
        for text in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            "1x\r\n",
            "1\n",
            "1\r\nab\r\n",
            "11111111111111111\r\n",
            &long,
            &trailers,
        ] {
            assert!(decode(Framing::Chunked, text.as_bytes(), &[1000]).is_err(), "{text:.20}");
        }
    }

    proptest! {
        #[test]
        fn what_was_put_in_chunks_comes_out(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..6),
            sizes in prop::collection::vec(1usize..97, 1..6),
        ) {
            let mut text = Vec::new();
            for part in &parts {
                text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let decoded = decode(Framing::Chunked, &text, &sizes).unwrap();
            prop_assert_eq!(decoded, Some((parts.concat(), Vec::new())));
        }

        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..50) {
            let _ = decode(Framing::Chunked, &text, &[size]);
        }
    }
}
