//! How long each part of a call to an upstream may take.

use crate::duration::DurationText;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Limits of time; what is absent comes from the next wider setting: deployment, then route group, then gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Until the connection to the upstream stands, TLS included. Example: `2s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<DurationText>,

    /// Of a stream: until its first byte. Example: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<DurationText>,

    /// Of a stream: the longest silence between two pieces. Example: `20s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<DurationText>,

    /// From the first attempt to the last byte. Example: `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<DurationText>,
}

impl Timeouts {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Timeouts::default()
    }
}
