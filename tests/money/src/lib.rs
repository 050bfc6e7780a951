//! What the money tests share: an independent calculator ([`price`]), the gateway's gauges and ledger as they are read
//! from outside ([`gauges`], [`books`]), the machine that kills gateways under load ([`kills`]), and two gateways that share a
//! budget ([`pair`]). Nothing here uses a crate of the gateway: a mistake there must not be repeated here.
#![forbid(unsafe_code)]

pub mod books;
pub mod gauges;
pub mod kills;
pub mod pair;
pub mod price;
pub mod setup;
