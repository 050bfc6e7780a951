//! Tables that earlier versions wrote, one folder for each: they are read for ever, so nothing in them is changed. For
//! a form that has more in it, write a new folder with
//! `cargo test -p tollgate-snapshot --test wire -- --ignored write_golden`.

use std::fs;
use std::path::PathBuf;

use tollgate_snapshot::Members;
use tollgate_snapshot::compile::{Mode, ReplacedKey};
use tollgate_snapshot::model::{BudgetUnit, CalendarUnit, Key, KeyHash, Period, Snapshot, Strategy, Surface};
use tollgate_snapshot::wire::{self, Manifest, Read, Sealing, names};

use crate::documents::World;
use crate::parts::Cluster;
use crate::versions::from_later;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire/golden").join(name)
}

fn load(name: &str) -> Cluster {
    let text = |part: &str| {
        let path = folder(name).join(part);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let name = names::manifest("default");
    let manifest = Manifest::parse(&name, &text(&name)).unwrap();
    let texts = manifest.names().map(|part| (part.to_owned(), text(part))).collect();
    Cluster { manifest, texts }
}

fn key<'s>(snapshot: &'s Snapshot, name: &str) -> Vec<&'s Key> {
    snapshot.keys.iter().filter(|key| &*key.name == name).collect()
}

#[test]
fn the_first_form_is_read() {
    let cluster = load("1");
    assert_eq!((cluster.manifest.format, cluster.manifest.generation), (1, 12));
    for (cluster, whose) in [(from_later(&cluster), "with more in it"), (cluster, "as it was written")] {
        let Read { snapshot, credentials, token, left_out } = cluster.read().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((&*token, left_out.len()), ("token-of-the-operator", 0), "{whose}");
        let credentials: Vec<(&str, &str)> = credentials.iter().map(|one| (&*one.id, &*one.value)).collect();
        assert_eq!(credentials, [("team-a/azure/key", "azure-\"key\""), ("team-a/openai/key", "sk-openai")]);
        check(&snapshot);
    }
}

fn check(snapshot: &Snapshot) {
    let gateway = &snapshot.gateway;
    assert_eq!((&*gateway.namespace, &*gateway.name, gateway.max_output_tokens), ("tollgate", "default", 2_048));
    assert!(gateway.master_key.is_some() && gateway.deny_unpriced && gateway.metrics_require_auth);

    let surfaces: Vec<(&str, Surface)> = snapshot.deployments.iter().map(|one| (&*one.name, one.surface)).collect();
    assert_eq!(surfaces, [("azure", Surface::Azure), ("claude", Surface::Anthropic), ("openai", Surface::OpenAi)]);
    let azure = &snapshot.deployments[0];
    assert_eq!(azure.account.as_ref().map(|account| account.limits.tokens_per_minute), Some(Some(2_000_000)));
    assert_eq!((azure.api_version.as_deref(), azure.credentials[0].weight), (Some("2025-04-01-preview"), 2));
    let openai = &snapshot.deployments[2];
    assert_eq!((&*openai.endpoint.host, openai.endpoint.port, openai.endpoint.tls), ("api.openai.com", 443, true));
    assert_eq!(openai.price.as_ref().unwrap().output_rate().unwrap().to_per_million_text(), "10.5");
    assert_eq!((openai.limits.requests_per_minute, openai.timeouts.idle_ms), (Some(600), Some(20_000)));
    assert_eq!(&*openai.parameters.defaults[0].1, "0.2");
    assert_eq!((openai.region.as_deref(), openai.tags.len()), (Some("eu"), 1));

    let chat = snapshot.routes.iter().find(|route| &*route.name == "chat").unwrap();
    let targets: Vec<(u32, u32, i32, bool)> =
        chat.targets.iter().map(|one| (one.deployment, one.weight, one.priority, one.when.is_some())).collect();
    assert_eq!(
        (chat.strategy, chat.explicit, targets),
        (Strategy::LeastBusy, true, vec![(2, 80, 0, false), (0, 20, 1, true)])
    );
    let fallback = &snapshot.routes[chat.fallbacks[0].routes[0] as usize];
    assert_eq!((&*fallback.name, chat.retries.attempts, chat.cooldown.even_alone), ("claude-*", 3, true));
    let namespace = snapshot.namespaces.iter().find(|one| &*one.name == "team-a").unwrap();
    assert_eq!((namespace.exact.len(), namespace.prefixes.len()), (3, 1));

    let team = snapshot.teams.iter().find(|team| &*team.name == "research").unwrap();
    assert!(team.models.as_ref().unwrap().contains("gpt-4o") && team.limits.requests_per_minute == Some(3_000));

    let hash = KeyHash::parse("sha256:41a6d46d7e19ce5627b21179a279d750ccc04505ea9cee606552e2acbb4e9148").unwrap();
    let adopted = key(snapshot, "adopted");
    assert_eq!(
        (adopted.len(), adopted[0].hash, adopted[0].disabled, adopted[0].user.as_deref()),
        (1, hash, true, None)
    );
    let alice = key(snapshot, "alice");
    let ends: Vec<Option<i64>> = alice.iter().map(|key| key.expires_at).collect();
    assert!(ends.len() == 2 && ends.contains(&Some(1_814_313_600)) && ends.contains(&Some(1_800_000_000)), "{ends:?}");
    assert_eq!((alice[0].user.as_deref(), alice[0].policy), (Some("alice@example.com"), alice[1].policy));
    let policy = &snapshot.policies[alice[0].policy as usize];
    assert_eq!(&*snapshot.teams[policy.team.unwrap() as usize].name, "research");
    assert_eq!((&*policy.aliases[0].0, &*policy.aliases[0].1), ("fast", "gpt-4o"));
    assert_eq!((&*policy.per_model[0].0, policy.max_output_tokens, policy.tags.len()), ("gpt-4o", Some(100), 1));
    assert_eq!((policy.limits.tokens_per_minute, &*policy.labels[0].1), (Some(100_000), "dev"));

    let budgets: Vec<(&str, i64, BudgetUnit, bool)> = alice[0]
        .budgets
        .iter()
        .map(|at| &snapshot.budgets[*at as usize])
        .map(|budget| (&*budget.id, budget.limit, budget.unit, budget.hard))
        .collect();
    assert_eq!(
        budgets,
        [
            ("team-a/VirtualKey/alice", 25_000_000_000, BudgetUnit::Usd, true),
            ("team-a/Budget/daily/alice", 5_000, BudgetUnit::Tokens, true),
            ("team-a/Budget/yearly", 20_000_000_000_000, BudgetUnit::Usd, false),
            ("team-a/Team/research", 2_000_000_000_000, BudgetUnit::Usd, true),
        ]
    );
    let period = |id: &str| &snapshot.budgets.iter().find(|budget| &*budget.id == id).unwrap().period;
    let calendar = Period::Calendar { unit: CalendarUnit::Month, time_zone: "Europe/Vienna".into() };
    assert_eq!(*period("team-a/VirtualKey/alice"), calendar);
    assert_eq!(*period("team-a/Budget/daily/alice"), Period::Rolling { seconds: 86_400 });
    let yearly: Vec<_> = snapshot.budgets.iter().filter(|budget| &*budget.id == "team-a/Budget/yearly").collect();
    assert!(yearly.iter().any(|budget| budget.models.is_some()) && yearly.iter().any(|budget| budget.models.is_none()));
    assert!(yearly.iter().all(|budget| budget.reset_token.as_deref() == Some("once")));
    assert_eq!(format!("{:?}", Members::of(snapshot)).matches("VirtualKey").count(), 2);
}

const WORLD: &str = "
kind: Secret
metadata: {name: openai, namespace: team-a}
stringData: {key: sk-openai}
---
kind: Secret
metadata: {name: azure, namespace: team-a, annotations: {tollgate.dev/hosts: example.openai.azure.com}}
stringData: {key: 'azure-\"key\"'}
---
kind: Secret
metadata: {name: master, namespace: tollgate}
stringData: {key: sk-0123456789abcdef0123456789}
---
kind: LLMGateway
metadata: {name: default, namespace: tollgate}
spec:
  default: true
  allowedNamespaces: {from: All}
  masterKey: {secretRef: {name: master, key: key}}
  defaults: {unpriced: Deny, maxOutputTokens: 2048}
  telemetry: {metrics: {requireAuth: true}}
---
kind: ProviderAccount
metadata: {name: azure, namespace: team-a}
spec:
  provider: azure
  endpoint: {baseURL: 'https://example.openai.azure.com', apiVersion: 2025-04-01-preview}
  credentials: [{name: one, secretRef: {name: azure, key: key}, weight: 2}]
  limits: {tokensPerMinute: 2000000}
---
kind: ModelDeployment
metadata: {name: azure, namespace: team-a}
spec: {accountRef: {name: azure}, model: prod, modelNames: [gpt-4o], pricing: {free: true}}
---
kind: ModelDeployment
metadata: {name: claude, namespace: team-a}
spec:
  provider: anthropic
  model: 'claude-*'
  modelNames: ['claude-*']
  credential: {secretRef: {name: openai, key: key}}
  pricing: {perMillionTokens: {input: '3', output: '15'}}
---
kind: ModelDeployment
metadata: {name: openai, namespace: team-a}
spec:
  provider: openai
  model: gpt-4o
  modelNames: [gpt-4o, gpt]
  credential: {secretRef: {name: openai, key: key}}
  pricing: {perMillionTokens: {input: '2.5', output: '10.5'}, rates: [{unit: Request, price: '0.01', per: 1}]}
  limits: {requestsPerMinute: 600}
  timeouts: {idle: 20s}
  parameters: {defaults: {temperature: 0.2}, forced: {top_p: 0.9}, drop: [logit_bias]}
  region: eu
  tags: [internal]
---
kind: RouteGroup
metadata: {name: chat, namespace: team-a}
spec:
  strategy: LeastBusy
  targets:
    - {name: main, modelDeploymentRef: {name: openai}, weight: 80}
    - {name: eu, modelDeploymentRef: {name: azure}, weight: 20, priority: 1, when: \"'eu' in request.tags\"}
  fallbacks: [{name: down, errors: [Any, RateLimit], models: ['claude-x']}]
  retries: {attempts: 3}
  cooldown: {failures: 5}
---
kind: Team
metadata: {name: research, namespace: team-a}
spec:
  models: ['gpt-*', chat, 'claude-*']
  budget: {limit: '2000', period: {calendar: Month}}
  limits: {requestsPerMinute: 3000}
---
kind: Budget
metadata: {name: daily, namespace: team-a}
spec:
  limit: '5000'
  unit: Tokens
  period: {rolling: 24h}
  appliesTo: {keySelector: {matchLabels: {env: dev}}, models: ['gpt-*']}
  per: Key
  parentRef: {name: yearly}
---
kind: Budget
metadata: {name: yearly, namespace: team-a}
spec:
  limit: '20000'
  period: {lifetime: {}}
  enforcement: Soft
  resetToken: once
  appliesTo: {users: [bob@example.com], providers: [openai]}
---
kind: VirtualKey
metadata: {name: alice, namespace: team-a, labels: {env: dev}}
spec:
  teamRef: {name: research}
  user: alice@example.com
  models: [gpt-4o, chat]
  modelAliases: {fast: gpt-4o}
  budget: {limit: '25', period: {calendar: Month, timeZone: Europe/Vienna}}
  limits: {tokensPerMinute: 100000, perModel: [{model: gpt-4o, requestsPerMinute: 10}]}
  maxOutputTokens: 100
  expiresAt: '2027-06-30T00:00:00Z'
  rotation: {every: 720h, overlap: 24h}
  tags: [notebook]
  secret: {name: alice}
---
kind: VirtualKey
metadata: {name: adopted, namespace: team-a}
spec:
  models: [chat]
  disabled: true
  keyHash: 'sha256:41a6d46d7e19ce5627b21179a279d750ccc04505ea9cee606552e2acbb4e9148'
";

#[test]
#[ignore = "writes files that are then kept for ever"]
fn write_golden() {
    let mut world = World { mode: Mode::Cluster, ..World::read(WORLD) };
    let replaced = ReplacedKey { hash: KeyHash::of(b"one that was replaced"), ends_at: 1_800_000_000 };
    world.key_hashes.insert_replaced("team-a", "alice", replaced);
    let compiled = world.compile();
    let sealing = Sealing { salt: "0123456789abcdef", token: "token-of-the-operator" };
    let tables = wire::write(&compiled.snapshot, &compiled.credentials, sealing, None, None);
    let gateway = tollgate_snapshot::GatewayName { namespace: "tollgate".into(), name: "default".into() };
    let manifest = Manifest::of(&tables, 12, env!("CARGO_PKG_VERSION"), gateway);
    let folder = folder("new");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(names::manifest("default")), manifest.to_text()).unwrap();
    for part in tables.policy.iter().chain(&tables.keys).chain(&tables.credentials) {
        fs::write(folder.join(&part.name), &*part.content).unwrap();
    }
}
