//! One upstream model: where it is, what it costs, which credential goes there.

use tollgate_dialects::Dialect;
use tollgate_snapshot::compile::{Compiled, Mode};
use tollgate_snapshot::model::{AuthStyle, Surface};
use tollgate_snapshot::{Reason, Severity};

use crate::world::{Ask, World, mock_endpoint};

const SECRET: &str = "
kind: Secret
metadata: {name: s}
stringData: {key: 'sk-one\n', empty: '', odd: \"a\\nb\"}
---
";

fn world(spec: &str) -> World {
    World::read(&format!("{SECRET}kind: ModelDeployment\nmetadata: {{name: m}}\nspec: {{{spec}}}\n"))
}

fn compile(spec: &str) -> Compiled {
    world(spec).compile()
}

const CREDENTIAL: &str = "credential: {secretRef: {name: s, key: key}}";

#[test]
fn a_provider_brings_address_dialect_and_price() {
    let compiled = compile(&format!("provider: openai, model: gpt-4o, {CREDENTIAL}"));
    assert_eq!(compiled.summary(), Vec::<String>::new());
    let model = compiled.deployment("m").unwrap();
    assert_eq!(
        (model.endpoint.tls, &*model.endpoint.host, model.endpoint.port, &*model.endpoint.path),
        (true, "api.openai.com", 443, "/v1")
    );
    assert_eq!((model.dialect, model.surface, model.auth), (Dialect::OpenAi, Surface::OpenAi, AuthStyle::Bearer));
    assert!(model.price.as_ref().unwrap().input_rate().is_some());
    assert_eq!(model.max_output_tokens, Some(16_384));
    assert_eq!(&*compiled.credentials[0].value, "sk-one", "without the line end");

    let compiled =
        compile(&format!("provider: anthropic, model: claude-sonnet-4-5, maxOutputTokens: 100, {CREDENTIAL}"));
    let model = compiled.deployment("m").unwrap();
    assert_eq!(
        (model.dialect, model.auth, model.max_output_tokens),
        (Dialect::Anthropic, AuthStyle::XApiKey, Some(100))
    );
}

#[test]
fn the_mock_needs_nothing() {
    let compiled = compile("provider: mock, model: m, pricing: {free: true}");
    let model = compiled.deployment("m").unwrap();
    assert_eq!((&model.endpoint, model.credentials.len()), (&mock_endpoint(), 0));
    assert_eq!(compiled.summary(), Vec::<String>::new());
}

/// What is refused, with the finding that says why.
#[test]
fn what_cannot_work_is_left_out_and_told() {
    let free = "pricing: {free: true}, model: m";
    for (spec, reason, field) in [
        (format!("provider: opena, {free}"), Reason::UnknownProvider, "spec.provider"),
        (free.to_owned(), Reason::ExactlyOne, "spec"),
        (format!("provider: mock, accountRef: {{name: a}}, {free}"), Reason::ExactlyOne, "spec"),
        (format!("accountRef: {{name: a}}, {free}, {CREDENTIAL}"), Reason::ExactlyOne, "spec.credential"),
        (format!("accountRef: {{name: a}}, {free}"), Reason::NotFound, "spec.accountRef"),
        (format!("accountRef: {{name: a, namespace: b}}, {free}"), Reason::NotGranted, "spec.accountRef"),
        (format!("provider: azure, {free}, {CREDENTIAL}"), Reason::EndpointMissing, "spec.endpoint.baseURL"),
        (format!("provider: openai, {free}"), Reason::NotFound, "spec.credential"),
        (
            format!("provider: openai, {free}, credential: {{secretRef: {{name: t, key: key}}}}"),
            Reason::NotFound,
            "spec.credential.secretRef",
        ),
        (
            format!("provider: openai, {free}, credential: {{secretRef: {{name: s, key: k}}}}"),
            Reason::SecretKeyMissing,
            "spec.credential.secretRef",
        ),
        (
            format!("provider: openai, {free}, credential: {{secretRef: {{name: s, key: empty}}}}"),
            Reason::SecretKeyMissing,
            "spec.credential.secretRef",
        ),
        (
            format!("provider: openai, {free}, credential: {{secretRef: {{name: s, key: odd}}}}"),
            Reason::InvalidValue,
            "spec.credential.secretRef",
        ),
        (
            format!("provider: vllm, {free}, endpoint: {{baseURL: 'ftp://a'}}"),
            Reason::InvalidValue,
            "spec.endpoint.baseURL",
        ),
        (
            format!("provider: vllm, {free}, endpoint: {{baseURL: 'http://169.254.169.254/'}}"),
            Reason::HostNotAllowed,
            "spec.endpoint.baseURL",
        ),
        (
            format!("provider: vllm, {free}, endpoint: {{baseURL: 'http://a'}}, backendRef: {{name: a, port: 1}}"),
            Reason::ExactlyOne,
            "spec",
        ),
        (
            format!("provider: vllm, {free}, backendRef: {{name: 'a.b/', port: 1}}"),
            Reason::InvalidValue,
            "spec.backendRef",
        ),
        (
            format!("provider: mock, {free}, limits: {{requestsPerMinute: 0}}"),
            Reason::InvalidValue,
            "spec.limits.requestsPerMinute",
        ),
        (format!("provider: mock, {free}, timeouts: {{idle: 5 minutes}}"), Reason::InvalidValue, "spec.timeouts.idle"),
        (
            format!("provider: mock, {free}, parameters: {{forced: {{a: 1}}, drop: [a]}}"),
            Reason::InvalidValue,
            "spec.parameters.drop",
        ),
        (
            format!("provider: mock, {free}, endpoint: {{headers: [{{name: host, value: x}}]}}"),
            Reason::InvalidValue,
            "spec.endpoint.headers[0]",
        ),
        ("provider: mock, model: m, pricing: {}".to_owned(), Reason::ExactlyOne, "spec.pricing"),
        (
            "provider: mock, model: m, pricing: {free: true, like: openai/gpt-4o}".to_owned(),
            Reason::ExactlyOne,
            "spec.pricing",
        ),
        (
            "provider: mock, model: m, pricing: {like: openai/nothing-such}".to_owned(),
            Reason::PriceUnknown,
            "spec.pricing.like",
        ),
        (
            "provider: mock, model: m, pricing: {perMillionTokens: {input: '-1'}}".to_owned(),
            Reason::InvalidValue,
            "spec.pricing.perMillionTokens.input",
        ),
        (
            "provider: mock, model: m, pricing: {rates: [{unit: Banana, price: '1'}]}".to_owned(),
            Reason::InvalidValue,
            "spec.pricing.rates[0].unit",
        ),
        (
            "provider: mock, model: m, pricing: {rates: [{unit: InputToken, price: '1', cacheTTL: 1h}]}".to_owned(),
            Reason::InvalidValue,
            "spec.pricing.rates[0].cacheTTL",
        ),
    ] {
        let compiled = compile(&spec);
        assert!(compiled.deployment("m").is_none(), "{spec}");
        let found: Vec<(Severity, Reason, &str)> =
            compiled.findings.iter().map(|one| (one.severity, one.reason, one.field.as_str())).collect();
        assert_eq!(found, [(Severity::Error, reason, field)], "{spec}");
        assert!(compiled.credentials.is_empty(), "{spec}");
    }
}

#[test]
fn a_typing_error_in_a_provider_gets_a_guess() {
    let compiled = compile("provider: opena, model: m");
    assert!(compiled.findings[0].hint.contains("`openai`"), "{:?}", compiled.findings[0]);
}

#[test]
fn an_unknown_price_is_a_warning() {
    let compiled = compile("provider: vllm, model: my-own, endpoint: {baseURL: 'http://10.0.0.7:8000/v1'}");
    assert_eq!(compiled.summary(), ["Warning PriceUnknown ModelDeployment default/m spec.pricing"]);
    assert_eq!(compiled.deployment("m").unwrap().price, None);
}

#[test]
fn stated_rates_replace_those_of_the_model_they_are_like() {
    let compiled = compile("provider: mock, model: m, pricing: {like: openai/gpt-4o, perMillionTokens: {output: '1'}}");
    let sheet = compiled.deployment("m").unwrap().price.clone().unwrap();
    assert_eq!(sheet.output_rate().unwrap().to_per_million_text(), "1");
    assert_eq!(sheet.input_rate().unwrap().to_per_million_text(), "2.5");
    assert_eq!(compiled.deployment("m").unwrap().max_output_tokens, Some(16_384));
}

#[test]
fn parameters_keep_their_json() {
    let compiled = compile(
        "provider: mock, model: m, pricing: {free: true}, parameters: {defaults: {temperature: 0.2, stop: [a]}, forced: {top_p: 0.9}, drop: [logit_bias]}",
    );
    let parameters = &compiled.deployment("m").unwrap().parameters;
    let texts = |pairs: &[(std::sync::Arc<str>, std::sync::Arc<str>)]| {
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(texts(&parameters.defaults), ["stop=[\"a\"]", "temperature=0.2"]);
    assert_eq!(texts(&parameters.forced), ["top_p=0.9"]);
    assert_eq!(&*parameters.drop[0], "logit_bias");
}

#[test]
fn a_credential_goes_only_where_it_may() {
    let own_host = format!(
        "provider: openai, model: m, pricing: {{free: true}}, endpoint: {{baseURL: 'https://proxy.example/v1'}}, {CREDENTIAL}"
    );
    assert!(compile(&own_host).deployment("m").is_some(), "a folder has one owner");
    let in_cluster = World { mode: Mode::Cluster, ..world(&own_host) };
    let compiled = in_cluster.compile();
    assert_eq!(
        compiled.summary(),
        ["Error CredentialHostNotAllowed ModelDeployment default/m spec.credential.secretRef"]
    );
    assert!(compiled.deployment("m").is_none() && compiled.credentials.is_empty());
    let usual = World { mode: Mode::Cluster, ..world(&format!("provider: openai, model: gpt-4o, {CREDENTIAL}")) };
    assert!(usual.compile().deployment("m").is_some());
    let allowed = SECRET.replace("{name: s}", "{name: s, annotations: {tollgate.dev/hosts: 'a.example, *.example'}}");
    let yaml = format!("{allowed}kind: ModelDeployment\nmetadata: {{name: m}}\nspec: {{{own_host}}}\n");
    let compiled = World { mode: Mode::Cluster, ..World::read(&yaml) }.compile();
    assert_eq!(compiled.errors(), Vec::<String>::new());
}

#[test]
fn loopback_is_for_standalone() {
    let spec = "provider: vllm, model: m, pricing: {free: true}, endpoint: {baseURL: 'http://localhost:8000/v1'}";
    assert!(compile(spec).deployment("m").is_some());
    let compiled = World { mode: Mode::Cluster, ..world(spec) }.compile();
    assert_eq!(compiled.summary(), ["Error HostNotAllowed ModelDeployment default/m spec.endpoint.baseURL"]);
}

#[test]
fn the_gateway_says_which_hosts_may_be_called() {
    let yaml = "
kind: LLMGateway
metadata: {name: g}
spec: {egress: {allowedHosts: ['*.example']}}
---
kind: ModelDeployment
metadata: {name: inside}
spec: {provider: vllm, model: m, pricing: {free: true}, endpoint: {baseURL: 'https://a.example/v1'}}
---
kind: ModelDeployment
metadata: {name: outside}
spec: {provider: vllm, model: m, pricing: {free: true}, endpoint: {baseURL: 'https://a.test/v1'}}
";
    let compiled = World::read(yaml).compile();
    assert!(compiled.deployment("inside").is_some() && compiled.deployment("outside").is_none());
    assert_eq!(compiled.summary(), ["Error HostNotAllowed ModelDeployment default/outside spec.endpoint.baseURL"]);
}

#[test]
fn an_account_with_one_good_credential_works() {
    let yaml = format!(
        "{SECRET}
kind: ProviderAccount
metadata: {{name: a}}
spec:
  provider: openai
  credentials: [{{name: one, secretRef: {{name: s, key: key}}}}, {{name: two, secretRef: {{name: gone, key: key}}}}, {{name: three, workloadIdentity: {{}}}}]
---
kind: ModelDeployment
metadata: {{name: m}}
spec: {{accountRef: {{name: a}}, model: gpt-4o}}
"
    );
    let compiled = World::read(&yaml).compile();
    assert_eq!(compiled.deployment("m").unwrap().credentials.len(), 1);
    assert_eq!(
        compiled.summary(),
        [
            "Error NotFound ProviderAccount default/a spec.credentials[1].secretRef",
            "Error NotSupportedYet ProviderAccount default/a spec.credentials[2].workloadIdentity",
        ]
    );
}

/// Whether a cancelled stream is billed no further, and whether streams show all that they are billed for.
#[test]
fn what_is_billed_of_a_cancelled_stream_is_known_or_said() {
    let at = "endpoint: {baseURL: 'http://10.0.0.7:8000/v1'}, pricing: {free: true}";
    let own = |spec: &str| format!("provider: openai-compatible, {at}, {spec}");
    let server = |spec: &str| format!("provider: vllm, {at}, {spec}");
    let stops = |spec: &str| own(&format!("cancelBilling: Stops, {spec}"));
    for (spec, expected) in [
        (server("model: m"), (true, true)),
        (server("model: m, cancelBilling: Full"), (false, false)),
        (own("model: m"), (false, false)),
        (own("model: m, cancelBilling: Full"), (false, false)),
        (stops("model: m"), (true, true)),
        // Models that may think unseen, by what is said of them or else by the price table.
        (stops("model: m, capabilities: [vision, reasoning]"), (true, false)),
        (stops("model: m, capabilities: [vision]"), (true, true)),
        (stops("model: o3"), (true, false)),
        (stops("model: gpt-4o"), (true, true)),
        (stops("model: o3, capabilities: [vision]"), (true, true)),
        (server("model: m, pricing: {like: openai/o3}").replace("pricing: {free: true}, ", ""), (true, false)),
        (server("model: m, pricing: {like: openai/gpt-4o}").replace("pricing: {free: true}, ", ""), (true, true)),
        (stops("model: '*', modelNames: ['*']"), (true, false)),
        (stops("model: m, parameters: {forced: {reasoning_effort: low}}"), (true, false)),
        (stops("model: m, parameters: {defaults: {tools: []}}"), (true, false)),
        (stops("model: m, parameters: {defaults: {temperature: 0}}"), (true, true)),
    ] {
        let compiled = compile(&spec);
        let model = compiled.deployment("m").unwrap_or_else(|| panic!("{spec}: {:?}", compiled.summary()));
        assert_eq!((model.cancel_stops_billing, model.shows_output), expected, "{spec}");
    }
    let account = |says: &str, own: &str| {
        let text = format!(
            "{SECRET}kind: ProviderAccount\nmetadata: {{name: a}}\nspec: {{provider: vllm, endpoint: {{baseURL: 'http://10.0.0.7:8000/v1'}}{says}}}\n---\n\
             kind: ModelDeployment\nmetadata: {{name: m}}\nspec: {{accountRef: {{name: a}}, model: m, pricing: {{free: true}}{own}}}\n"
        );
        World::read(&text).compile().deployment("m").map(|model| model.cancel_stops_billing)
    };
    for (says, own, expected) in [
        ("", "", true),
        (", cancelBilling: Full", "", false),
        (", cancelBilling: Full", ", cancelBilling: Stops", true),
        ("", ", cancelBilling: Full", false),
    ] {
        assert_eq!(account(says, own), Some(expected), "{says} {own}");
    }
}
