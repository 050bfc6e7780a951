//! Texts of many lines, cut into pieces that fit into objects, and read back line by line without putting them together.

use super::ReadError;
use crate::model::KeyHash;

/// The most that is put into one ConfigMap or Secret. They may hold 1 MiB, names and labels included. Bytes.
pub(super) const MOST: usize = 900_000;

/// From here on a piece of the policy may end. Bytes.
const LEAST: usize = 200_000;

/// One line of so many is a place to cut at.
const CUTS: u32 = 64;

/// In lower case hexadecimal digits.
pub(super) fn sha256(text: &str) -> String {
    KeyHash::of(text.as_bytes()).to_string()
}

/// Where pieces may end before they are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cuts {
    /// At lines that are chosen by what is in them, so that an edit changes the piece that it is in, and not where all
    /// later ones begin.
    ByContent,
    OnlyWhenFull,
}

/// Cuts a text after lines; a line only where it is longer than a piece may be.
pub(super) fn cut(text: String, cuts: Cuts) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < text.len() {
        let end = text[at..].find('\n').map_or(text.len(), |length| at + length + 1);
        let is_natural =
            cuts == Cuts::ByContent && at - start >= LEAST && checksum(&text[at..end]).is_multiple_of(CUTS);
        if at > start && (end - start > MOST || is_natural) {
            pieces.push(text[start..at].to_owned());
            start = at;
        }
        while end - start > MOST {
            let most = text.floor_char_boundary(start + MOST);
            pieces.push(text[start..most].to_owned());
            start = most;
        }
        at = end;
    }
    if pieces.is_empty() {
        return if text.is_empty() { Vec::new() } else { vec![text] };
    }
    pieces.push(text[start..].to_owned());
    pieces
}

/// FNV-1a: any fixed function will do.
fn checksum(line: &str) -> u32 {
    line.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Gives each line of the pieces' text to `take`, and the name of the piece that it ends in.
///
/// # Errors
/// What `take` answers; and `Unreadable` for the last piece where the text ends within a line.
pub(super) fn lines<'p>(
    pieces: impl Iterator<Item = (&'p str, &'p str)>,
    mut take: impl FnMut(&str, &str) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut begun = String::new();
    let mut last = "";
    for (name, text) in pieces {
        let mut rest = text;
        while let Some((line, after)) = rest.split_once('\n') {
            rest = after;
            if begun.is_empty() {
                take(name, line)?;
            } else {
                begun.push_str(line);
                take(name, &begun)?;
                begun.clear();
            }
        }
        begun.push_str(rest);
        last = name;
    }
    match begun.is_empty() {
        true => Ok(()),
        false => Err(ReadError::Unreadable { part: last.to_owned(), error: "it ends within a line".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[String]) -> Result<String, ReadError> {
        let mut text = String::new();
        lines(pieces.iter().map(|piece| ("p", piece.as_str())), |_, line| {
            text.push_str(line);
            text.push('\n');
            Ok(())
        })?;
        Ok(text)
    }

    /// Lines that differ, of about `length` bytes.
    fn numbered(count: usize, length: usize) -> Vec<String> {
        (0..count).map(|at| format!("{at:0length$}\n")).collect()
    }

    #[test]
    fn what_fits_stays_whole() {
        assert_eq!(cut(String::new(), Cuts::ByContent), Vec::<String>::new());
        assert_eq!(cut("a\nb\n".to_owned(), Cuts::ByContent), ["a\nb\n"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_at_a_character() {
        let text = format!("short\n{}\nshort\n", "ä".repeat(MOST));
        let pieces = cut(text.clone(), Cuts::OnlyWhenFull);
        assert!(pieces.len() > 2 && pieces.iter().all(|piece| piece.len() <= MOST));
        assert_eq!(read(&pieces), Ok(text));
    }

    #[test]
    fn a_line_more_changes_the_piece_that_it_is_in() {
        let lines = numbered(40_000, 99);
        let before = cut(lines.concat(), Cuts::ByContent);
        assert!(before.len() > 10, "{}", before.len());
        let mut more = lines.clone();
        more.insert(20_000, "one more\n".to_owned());
        let after = cut(more.concat(), Cuts::ByContent);
        let changed = after.iter().filter(|piece| !before.contains(piece)).count();
        assert_eq!((changed, after.len()), (1, before.len()));
        let full = cut(lines.concat(), Cuts::OnlyWhenFull);
        assert!(full[..full.len() - 1].iter().all(|piece| piece.len() > MOST - 100), "filled as far as they can be");
    }

    #[test]
    fn half_a_line_is_no_line() {
        assert!(matches!(read(&["a\nb".to_owned()]), Err(ReadError::Unreadable { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn pieces_are_small_and_give_the_text_again(lengths in proptest::collection::vec(0usize..400_000, 0..12)) {
            let text: String = lengths.iter().map(|length| format!("{}\n", "x".repeat(*length * *length / 200_000))).collect();
            for cuts in [Cuts::ByContent, Cuts::OnlyWhenFull] {
                let pieces = cut(text.clone(), cuts);
                prop_assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= MOST));
                prop_assert_eq!(read(&pieces).unwrap(), text.clone());
            }
        }
    }
}
