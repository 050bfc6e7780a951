//! The three blocks of settings, searched together: people put settings under the wrong one, and mean what they wrote.

use crate::block::{Block, Item};
use crate::context::Context;

/// A block of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Router,
    Litellm,
    General,
    /// The file itself; nobody's home.
    Root,
}

/// What is left of the blocks.
pub struct Settings {
    blocks: [(Home, Block); 4],
}

impl Settings {
    /// Takes the blocks out of the file, which stays the last to be searched.
    pub fn take_from(mut root: Block, context: &mut Context<'_>) -> Settings {
        let router = root.take_block("router_settings", context);
        let litellm = root.take_block("litellm_settings", context);
        let general = root.take_block("general_settings", context);
        Settings {
            blocks: [(Home::Router, router), (Home::Litellm, litellm), (Home::General, general), (Home::Root, root)],
        }
    }

    /// A setting, from the first of its homes that has it, else from wherever else it stands. Others are noted.
    pub fn take(&mut self, key: &str, homes: &[Home], context: &mut Context<'_>) -> Option<Item> {
        let place = |home: Home| homes.iter().position(|candidate| *candidate == home).unwrap_or(homes.len());
        let mut found: Vec<(Home, Item)> = Vec::new();
        for (home, block) in &mut self.blocks {
            found.extend(block.take(key).map(|item| (*home, item)));
        }
        found.sort_by_key(|(home, _)| place(*home));
        let mut found = found.into_iter();
        let (home, item) = found.next()?;
        if !homes.contains(&home)
            && let Some(right) = homes.first()
        {
            let message = format!("`{key}` belongs under `{}`; it is taken all the same", right.name());
            context.notes.warn(&item.path, message, "");
        }
        for (_, other) in found {
            context.notes.warn(
                other.path,
                format!("it is not used: `{}` comes first", item.path),
                "remove one of them",
            );
        }
        Some(item)
    }

    /// What nobody took, block by block.
    pub fn rest(self) -> impl Iterator<Item = (Home, String, Item)> {
        self.blocks.into_iter().flat_map(|(home, block)| block.rest().map(move |(key, item)| (home, key, item)))
    }
}

impl Home {
    fn name(self) -> &'static str {
        match self {
            Home::Router => "router_settings",
            Home::Litellm => "litellm_settings",
            Home::General => "general_settings",
            Home::Root => "the top of the file",
        }
    }
}
