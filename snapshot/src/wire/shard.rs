//! Key shards.

use serde::{Deserialize, Serialize};

/// How many digits of its hash decide which shard a key is in: 1, 16 or 256 shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
pub enum ShardDigits {
    #[default]
    None,
    One,
    Two,
}

impl From<ShardDigits> for u8 {
    fn from(digits: ShardDigits) -> u8 {
        match digits {
            ShardDigits::None => 0,
            ShardDigits::One => 1,
            ShardDigits::Two => 2,
        }
    }
}

impl From<u8> for ShardDigits {
    fn from(number: u8) -> ShardDigits {
        match number {
            0 => ShardDigits::None,
            1 => ShardDigits::One,
            _ => ShardDigits::Two,
        }
    }
}
