//! The configuration of a standalone gateway: a folder or a file of resources, or a LiteLLM configuration, read,
//! compiled by the same code as in a cluster, and watched; and a cluster itself, for commands that look at one. I/O
//! lives in `files`, `keys` and `watch`; the rest is pure.

pub mod cluster;
pub mod document;
pub mod files;
pub mod keys;
pub mod last_good;
pub mod listeners;
pub mod load;
pub mod locate;
pub mod simple_yaml;
pub mod watch;
