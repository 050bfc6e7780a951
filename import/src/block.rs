//! A map of the file that is emptied while it is read: what nobody took is what nobody understands, and is noted.

use crate::context::Context;
use crate::node::Node;

/// What is left of a map.
#[derive(Debug, Default)]
pub struct Block {
    path: String,
    entries: Vec<(String, Node)>,
}

/// One value and where it stands.
#[derive(Clone, Debug)]
pub struct Item {
    pub path: String,
    pub node: Node,
}

impl Block {
    /// The map at `item`; an empty one, and a note, where it is something else.
    pub fn open(item: Item, context: &mut Context<'_>) -> Block {
        match item.node {
            Node::Map(entries) => Block { path: item.path, entries },
            Node::Null => Block { path: item.path, entries: Vec::new() },
            _ => {
                context.unexpected(&item, "a map");
                Block { path: item.path, entries: Vec::new() }
            }
        }
    }

    /// The value of `key`, once. A key without a value is as good as none.
    pub fn take(&mut self, key: &str) -> Option<Item> {
        let at = self.entries.iter().position(|(present, _)| present == key)?;
        let (key, node) = self.entries.remove(at);
        (node != Node::Null).then(|| Item { path: join(&self.path, &key), node })
    }

    /// The first of several spellings; the others stay.
    pub fn take_any(&mut self, keys: &[&str]) -> Option<Item> {
        keys.iter().find_map(|key| self.take(key))
    }

    /// The map at `key`, empty where there is none.
    pub fn take_block(&mut self, key: &str, context: &mut Context<'_>) -> Block {
        match self.take(key) {
            Some(item) => Block::open(item, context),
            None => Block { path: join(&self.path, key), entries: Vec::new() },
        }
    }

    /// Everything that is left, with its key.
    pub fn rest(self) -> impl Iterator<Item = (String, Item)> {
        let Block { path, entries } = self;
        entries.into_iter().filter(|(_, node)| *node != Node::Null).map(move |(key, node)| {
            let path = join(&path, &key);
            (key, Item { path, node })
        })
    }

    /// Takes what is left for which `is_wanted` says so.
    pub fn take_where(&mut self, is_wanted: impl Fn(&str) -> bool) -> Vec<(String, Item)> {
        let (wanted, kept) = std::mem::take(&mut self.entries).into_iter().partition(|(key, _)| is_wanted(key));
        self.entries = kept;
        Block { path: self.path.clone(), entries: wanted }.rest().collect()
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Item {
    /// The items of a list; of anything else, itself.
    pub fn each(self) -> Vec<Item> {
        let Item { path, node } = self;
        match node {
            Node::List(nodes) => {
                nodes.into_iter().enumerate().map(|(at, node)| Item { path: format!("{path}[{at}]"), node }).collect()
            }
            node => vec![Item { path, node }],
        }
    }
}

/// `a.b`
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
