//! Resources as users write them. Each builder gives the smallest valid object; [`Object::set`] says what differs. They
//! reach the gateway as text, through its real loader. Pure.

use sha2::{Digest, Sha256};

use crate::{KEY, Mock, UPSTREAM_KEY, Value, json};

/// Before a deployment's name: what its provider calls the model. So an invoice row names its deployment.
pub const UPSTREAM_PREFIX: &str = "up-";

/// Nano-USD per token of every deployment built here: input, output, cache read, cache write.
pub const RATES: [i64; 4] = [2_500, 10_000, 250, 3_125];

/// What a call costs at [`RATES`].
pub fn cost_nano_usd(input: u64, output: u64, cache_read: u64, cache_write: u64) -> i64 {
    let [input_rate, output_rate, read_rate, write_rate] = RATES;
    let fresh = input - cache_read - cache_write;
    fresh as i64 * input_rate
        + output as i64 * output_rate
        + cache_read as i64 * read_rate
        + cache_write as i64 * write_rate
}

/// A document.
#[derive(Clone, Debug)]
pub struct Object(Value);

impl Object {
    /// An object of one of our kinds, in the namespace `default`.
    pub fn new(kind: &str, name: &str, spec: Value) -> Object {
        let metadata = json!({"name": name, "namespace": "default"});
        Object(json!({"apiVersion": "tollgate.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}))
    }

    /// Sets a field, by its path from the root: `spec.limits.requestsPerMinute`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Object {
        let mut at = &mut self.0;
        for step in path.split('.') {
            at = &mut at[step];
        }
        *at = value.into();
        self
    }

    /// Takes a field away.
    pub fn unset(mut self, path: &str) -> Object {
        let (parent, field) = path.rsplit_once('.').expect("a path below the root");
        let mut at = &mut self.0;
        for step in parent.split('.') {
            at = &mut at[step];
        }
        at.as_object_mut().and_then(|parent| parent.remove(field)).unwrap_or_else(|| panic!("there is no {path}"));
        self
    }

    /// As JSON.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Kind and name.
    pub fn id(&self) -> (&str, &str) {
        (self.0["kind"].as_str().expect("objects have kinds"), self.name())
    }

    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().expect("objects have names")
    }
}

/// One text of many documents. JSON is YAML.
pub fn documents<'a>(objects: impl IntoIterator<Item = &'a Object>) -> String {
    let texts =
        objects.into_iter().map(|object| format!("---\n{}\n", serde_json::to_string_pretty(&object.0).expect("JSON")));
    texts.collect()
}

/// The gateway, with short waits, so that tests of retries take milliseconds.
pub fn gateway() -> Object {
    let retries = json!({"attempts": 2, "backoff": {"initial": "1ms", "max": "5ms"}});
    Object::new("LLMGateway", "default", json!({"default": true, "defaults": {"retries": retries}}))
}

/// The Secret `provider`, with [`UPSTREAM_KEY`].
pub fn secret() -> Object {
    secret_of("provider", UPSTREAM_KEY)
}

/// A Secret with a provider's key in `api-key`.
pub fn secret_of(name: &str, key: &str) -> Object {
    Object(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
        "stringData": {"api-key": key},
    }))
}

fn model_deployment(name: &str, provider: &str, base_url: String) -> Object {
    let spec = json!({
        "provider": provider,
        "model": format!("{UPSTREAM_PREFIX}{name}"),
        "endpoint": {"baseURL": base_url},
        "credential": {"secretRef": {"name": "provider", "key": "api-key"}},
        "pricing": {"perMillionTokens": {"input": "2.50", "output": "10.00", "cacheRead": "0.25", "cacheWrite": "3.125"}},
    });
    Object::new("ModelDeployment", name, spec)
}

/// Any OpenAI-compatible server.
pub fn deployment(name: &str, mock: &Mock) -> Object {
    model_deployment(name, "openai-compatible", format!("{}/v1", mock.url()))
}

/// OpenAI itself, at another address.
pub fn openai(name: &str, mock: &Mock) -> Object {
    model_deployment(name, "openai", format!("{}/v1", mock.url()))
}

pub fn anthropic(name: &str, mock: &Mock) -> Object {
    model_deployment(name, "anthropic", mock.url())
}

pub fn azure(name: &str, mock: &Mock) -> Object {
    model_deployment(name, "azure", mock.url()).set("spec.endpoint.apiVersion", "2025-04-01-preview")
}

/// A key with this text; it may call everything.
pub fn key(name: &str, text: &str) -> Object {
    Object::new("VirtualKey", name, json!({"models": ["*"], "keyHash": hash(text)}))
}

/// The key `caller`, whose text is [`KEY`].
pub fn caller() -> Object {
    key("caller", KEY)
}

/// A key's text that is long enough for a strong one.
pub fn key_text(name: &str) -> String {
    format!("sk-stage-{name}-0123456789abcdef")
}

/// As `keyHash` wants it.
pub fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub fn team(name: &str) -> Object {
    Object::new("Team", name, json!({"models": ["*"]}))
}

/// A Hard budget of so many USD for ever.
pub fn budget(name: &str, limit: &str) -> Object {
    Object::new("Budget", name, json!({"limit": limit, "period": {"lifetime": {}}}))
}

/// A route over these deployments, in this order, all of one weight and priority.
pub fn route<const N: usize>(name: &str, deployments: [&str; N]) -> Object {
    let targets: Vec<Value> =
        deployments.iter().map(|name| json!({"name": name, "modelDeploymentRef": {"name": name}})).collect();
    Object::new("RouteGroup", name, json!({"targets": targets}))
}
