//! Names that occur often are stored once.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::model::Name;

/// Gives out the same [`Name`] for the same text.
#[derive(Debug, Default)]
pub(super) struct Names<'a>(HashMap<&'a str, Name, RandomState>);

impl<'a> Names<'a> {
    pub fn intern(&mut self, text: &'a str) -> Name {
        self.0.entry(text).or_insert_with(|| text.into()).clone()
    }
}
