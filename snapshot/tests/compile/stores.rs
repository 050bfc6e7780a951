//! Databases of a gateway.

use tollgate_snapshot::Reason;
use tollgate_snapshot::compile::Mode;

use crate::world::{Ask, World};

fn world(url: &str, limit: &str) -> World {
    World::read(&format!(
        "
kind: Secret
metadata: {{name: redis}}
stringData: {{url: '{url}'}}
---
kind: LLMGateway
metadata: {{name: g}}
spec: {{stores: {{redis: {{secretRef: {{name: redis, key: url}}}}}}}}
---
kind: ModelDeployment
metadata: {{name: m}}
spec: {{provider: vllm, model: m, pricing: {{free: true}}, endpoint: {{baseURL: 'http://m:1'}}}}
---
kind: Secret
metadata: {{name: k}}
stringData: {{key: sk-0123456789abcdef0123456789}}
---
kind: VirtualKey
metadata: {{name: k}}
spec: {{models: ['*'], secret: {{name: k, policy: Adopt}}, budget: {{limit: '{limit}', period: {{lifetime: {{}}}}}}}}
"
    ))
}

#[test]
fn the_url_of_redis_is_a_credential_of_the_gateway() {
    for mode in [Mode::Standalone, Mode::Cluster] {
        let compiled = World { mode, ..world("rediss://:secret@cache:6379/1\n", "5") }.compile();
        assert!(
            compiled.said("g", Reason::InvalidValue).is_empty() && compiled.errors().is_empty(),
            "{:?}",
            compiled.summary()
        );
        assert_eq!(compiled.snapshot.gateway.redis.as_deref(), Some("default/redis/url"));
        let urls: Vec<(&str, &str)> = compiled.credentials.iter().map(|one| (&*one.id, &*one.value)).collect();
        assert_eq!(urls, [("default/redis/url", "rediss://:secret@cache:6379/1")]);
    }
}

#[test]
fn without_a_usable_url_budgets_are_still_not_counted_elsewhere() {
    let compiled = world("http://:secret@cache", "5").compile();
    let said = compiled.said("g", Reason::InvalidValue);
    assert_eq!(said[0].field, "spec.stores.redis.secretRef");
    assert!(compiled.findings.iter().all(|finding| !finding.message.contains("secret@")));
    assert_eq!(compiled.snapshot.gateway.redis.as_deref(), Some("default/redis/url"));
    assert!(compiled.credentials.is_empty());
}

#[test]
fn a_limit_that_redis_cannot_count_is_lowered_and_told() {
    let largest = 9_000_000_000_000_000;
    for (limit, counted, told) in [("9000000", largest, 0), ("9000000.01", largest, 1), ("10", 10_000_000_000, 0)] {
        let compiled = world("redis://cache", limit).compile();
        assert_eq!(compiled.budgets_of("k")[0].limit, counted);
        assert_eq!(compiled.said("g", Reason::InvalidValue).len(), told, "{limit}");
    }
}
