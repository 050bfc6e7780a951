//! What a gateway tells about itself: logs, traces, metrics.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Logs, traces, metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// Logs, without prompts, keys or e-mail addresses. Example: `{format: JSON, level: Info}`.
    #[serde(default)]
    pub logs: Logs,

    /// Traces by OpenTelemetry's protocol. Default: none. Example: `{endpoint: "http://collector:4317"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,

    /// Metrics at `/metrics`. Example: `{requireAuth: true}`.
    #[serde(default)]
    pub metrics: Metrics,
}

/// How logs are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Logs {
    /// `JSON` for collectors, `Human` for terminals. Default: `JSON`.
    #[serde(default)]
    pub format: LogFormat,

    /// Least severity that is written. Default: `Info`.
    #[serde(default)]
    pub level: LogLevel,
}

/// Shapes of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// One JSON object.
    #[default]
    #[serde(rename = "JSON")]
    Json,
    /// For people.
    Human,
}

/// Severities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// Someone should look.
    Error,
    /// We went on, worse.
    Warn,
    /// Events.
    #[default]
    Info,
    /// For a hunt.
    Debug,
    /// Everything.
    Trace,
}

/// Where traces go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Otlp {
    /// The collector. Example: `http://collector:4317`.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')")
        .message("endpoint must begin with http:// or https://"))]
    pub endpoint: String,

    /// How many of a hundred requests are traced. Default: 1.
    #[serde(default = "default_sampling_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub sampling_percent: i32,
}

fn default_sampling_percent() -> i32 {
    1
}

/// How metrics are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Serves `/metrics` only to who shows the master key. Default: false.
    #[serde(default)]
    pub require_auth: bool,
}
