//! A validating JSON scanner that hands out spans instead of building a document.
//!
//! One pass over the bytes checks the whole of RFC 8259 (and UTF-8), tells the fields of the
//! outermost object to a [`Visitor`] and remembers nothing. It allocates only for a key that is
//! written with escapes. Everything on the request path that looks at a body goes through here.

mod lanes;
mod read;
mod scan;
mod string;

use std::fmt;
use std::ops::{ControlFlow, Range};

pub use read::{elements, field_named, fields, find, is_empty_array, strings, unsigned};
pub use scan::{object, scan_object, validate};
pub use string::{decode, decode_quoted, push_quoted, quoted, spelled_out};

/// How many objects and arrays may be open at once.
pub const MAX_DEPTH: u32 = 128;

/// The longest string content that [`Visitor::short`] is told of, in bytes.
pub const SHORT: usize = 32;

/// A half-open range of bytes of the text that was scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// A span of offsets that were checked to fit when the scan began.
    pub(crate) fn at(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The same span as indices.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes it covers of `text`, which must be the text it was made from.
    pub fn of(self, text: &[u8]) -> &[u8] {
        &text[self.range()]
    }

    /// Its length in bytes.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it covers nothing.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// This span of a part that begins at `base`, as a span of the whole.
    #[must_use]
    pub fn within(self, base: u32) -> Self {
        Self { start: self.start + base, end: self.end + base }
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    True,
    False,
    Number,
    String,
    Array,
    Object,
}

/// Where a field of an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Offset of the opening quote of the key.
    pub start: u32,
    /// The value; of a string with its quotes.
    pub value: Span,
    /// What the value is.
    pub kind: Kind,
}

impl Field {
    /// The value's bytes within `text`.
    pub fn of(self, text: &[u8]) -> &[u8] {
        self.value.of(text)
    }

    /// The decoded text of a string value; `None` for another kind, or when its escapes name no character.
    pub fn text(self, text: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
        match self.kind {
            Kind::String => decode_quoted(self.of(text)),
            Kind::Null | Kind::True | Kind::False | Kind::Number | Kind::Array | Kind::Object => None,
        }
    }
}

/// The outline of an object that was scanned to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the opening brace.
    pub open: u32,
    /// Offset of the closing brace.
    pub close: u32,
    /// How many fields it has, repeated ones included.
    pub fields: u32,
}

/// Why a text is not the JSON object that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// Offset in bytes where it went wrong.
    pub offset: u32,
    /// What was wrong there, for the user.
    pub reason: &'static str,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.reason, self.offset)
    }
}

impl std::error::Error for JsonError {}

/// What a scan of an object came to; `None` inside: the visitor broke off.
pub type Scanned = Result<Option<Layout>, JsonError>;

/// Told what a scan passes by. `Break` ends the scan there, with the rest unseen and unchecked.
pub trait Visitor {
    /// A field of the outermost object, after its value. `key` has its escapes resolved.
    fn field(&mut self, key: &[u8], field: Field) -> ControlFlow<()>;

    /// A string of at most [`SHORT`] bytes anywhere, as written. `depth` counts the objects and
    /// arrays around it, so that a value of the outermost object has 1.
    #[inline(always)]
    fn short(&mut self, text: &[u8], depth: u32, is_key: bool) {
        let _ = (text, depth, is_key);
    }

    /// Some string has escapes in the place of characters of words: [`spelled_out`] takes them away. Told any number of
    /// times.
    #[inline(always)]
    fn veiled(&mut self) {}

    /// Before an object that is the value of a field of the outermost one, and opens at `open` of `bytes`, within `depth`
    /// objects and arrays. Whoever wants what is inside reads it with [`object`] and answers with its result, so that it
    /// is passed once; [`Visitor::field`] follows all the same.
    #[inline(always)]
    fn inside(&mut self, key: &[u8], bytes: &[u8], open: usize, depth: u32) -> Option<Scanned> {
        let _ = (key, bytes, open, depth);
        None
    }
}

impl<F: FnMut(&[u8], Field) -> ControlFlow<()>> Visitor for F {
    #[inline(always)]
    fn field(&mut self, key: &[u8], field: Field) -> ControlFlow<()> {
        self(key, field)
    }
}
