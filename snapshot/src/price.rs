//! What calls cost: a [`PriceSheet`] per deployment, its exact [`cost`](PriceSheet::cost) of a usage, the
//! [`worst_case`](PriceSheet::worst_case) that is held before dispatch, and the embedded [`PriceTable`] that sheets come
//! from. Pure integer arithmetic in 10^-18 USD; rounded up to a nano-USD once per attempt, here and nowhere else.

mod capability;
mod cost;
mod file;
mod hold;
mod model;
mod row;
mod sheet;
mod table;
mod tidy;
mod unit;

#[cfg(test)]
mod examples;

pub use capability::Capabilities;
pub use cost::{Conditions, Cost, CostContext, CostError, CostSource, reported_cost};
pub use file::{LineError, LineFault, PriceFile};
pub use hold::{Bounds, CacheWrites, MostPaid};
pub use model::{FreeSearches, ModelPrice, PriceFileError};
pub use row::{Row, Scope};
pub use sheet::{Multiplier, OffPeak, Part, PartError, PriceSheet};
pub use table::{PriceTable, VERSION};
pub use unit::{ServiceTier, Unit};
