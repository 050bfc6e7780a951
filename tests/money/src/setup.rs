//! Keys and budgets as the money tests write them. Pure.

use tollgate_harness::{Object, Value, json, objects};

/// A Hard budget of so many USD for ever.
pub fn hard(limit: &str) -> Value {
    json!({"limit": limit, "period": {"lifetime": {}}})
}

/// A Soft budget of so many USD for ever.
pub fn soft(limit: &str) -> Value {
    json!({"limit": limit, "period": {"lifetime": {}}, "enforcement": "Soft"})
}

/// The key of [`tollgate_harness::KEY`], under a budget of its own.
pub fn caller(budget: Value) -> Object {
    objects::caller().set("spec.budget", budget)
}

/// A key of this name under a budget; its text is [`objects::key_text`].
pub fn key(name: &str, budget: Value) -> Object {
    objects::key(name, &objects::key_text(name)).set("spec.budget", budget)
}

/// A gateway that tries once, so that what a test scripts is what happens.
pub fn tries_once() -> Object {
    objects::gateway().set("spec.defaults.retries", json!({"attempts": 0}))
}

/// A chat with one user message and a cap on its output.
pub fn chat(model: &str, said: &str, max_tokens: u64) -> Value {
    json!({"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": said}]})
}

/// The same body as a stream.
pub fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}
