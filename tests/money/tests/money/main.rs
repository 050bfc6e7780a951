//! The promises about money, proved through the real interface against the provider's own invoice.

mod bounds;
mod caps;
mod caps_injected;
mod caps_rules;
mod disk;
mod exact;
mod flagged;
mod holds;
mod kills;
mod leaks;
mod low;
mod members;
mod parameters;
mod prices;
mod retries;
mod shared;
mod streams;
mod teams;
mod tenants;
mod thresholds;
mod unpriced;
