//! What models cost at a gateway: the price list, its overlays, and what deployments say themselves.

use tollgate_snapshot::compile::Compiled;
use tollgate_snapshot::price::{Row, Unit, VERSION};
use tollgate_snapshot::{Reason, Severity};

use crate::world::{Ask, World};

fn gateway(overlays: &str) -> String {
    format!(
        "kind: LLMGateway\nmetadata: {{name: main}}\nspec: {{allowedNamespaces: {{from: All}}, prices: {{overlays: [{overlays}]}}}}\n"
    )
}

fn deployment(name: &str, spec: &str) -> String {
    format!(
        "---\nkind: ModelDeployment\nmetadata: {{name: {name}}}\nspec: {{credential: {{secretRef: {{name: s, key: k}}}}, {spec}}}\n"
    )
}

const SECRET: &str =
    "---\nkind: Secret\nmetadata: {name: s, annotations: {tollgate.dev/hosts: \"*\"}}\nstringData: {k: sk-test}\n";

fn world(overlays: &str, deployments: &[(&str, &str)]) -> World {
    let deployments: String = deployments.iter().map(|(name, spec)| deployment(name, spec)).collect();
    World::read(&format!("{}{deployments}{SECRET}", gateway(overlays)))
}

/// USD per million tokens in and out; `-` for none.
fn rates(compiled: &Compiled, name: &str) -> [String; 2] {
    let price = compiled.deployment(name).expect("the deployment is served").price.as_ref();
    let text =
        |rate: Option<tollgate_snapshot::money::Rate>| rate.map_or("-".to_owned(), |rate| rate.to_per_million_text());
    [text(price.and_then(|price| price.input_rate())), text(price.and_then(|price| price.output_rate()))]
}

fn version(compiled: &Compiled, name: &str) -> String {
    compiled.deployment(name).unwrap().price.as_ref().expect("it has a price").version().to_string()
}

/// A version without the digest that it ends in.
fn unsealed(version: &str) -> &str {
    let (named, digest) = version.rsplit_once(" #").expect("it ends in a digest");
    assert!(digest.len() == 8 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{version}");
    named
}

const FOUR: (&str, &str) = ("four", "provider: openai, model: gpt-4o");

#[test]
fn without_overlays_the_price_list_holds_and_is_named() {
    let compiled = world("", &[FOUR]).compile();
    assert_eq!(rates(&compiled, "four"), ["2.5", "10"]);
    assert_eq!(version(&compiled, "four"), format!("{VERSION} gpt-4o"));
    assert_eq!(compiled.findings, []);
}

#[test]
fn a_discount_lowers_every_rate_of_a_provider_exactly() {
    let overlays = "{name: contract, provider: openai, discountPercent: \"12.5\"}";
    let other = ("other", "provider: anthropic, model: claude-sonnet-4-5");
    let compiled = world(overlays, &[FOUR, other]).compile();
    assert_eq!(rates(&compiled, "four"), ["2.1875", "8.75"]);
    assert_eq!(rates(&compiled, "other"), ["3", "15"]);
    let named = version(&compiled, "four");
    assert_eq!(unsealed(&named), format!("overlay contract (-12.5%) over {VERSION} gpt-4o"));
    let price = compiled.deployment("four").unwrap().price.clone().unwrap();
    let batch = price.rows().iter().find(|row| row.unit == Unit::CacheReadToken && row.tier.is_none());
    assert_eq!(batch.map(Row::to_string).as_deref(), Some("cr 0.00000109375"));
    assert_eq!(compiled.findings, []);
}

#[test]
fn overlays_are_applied_in_their_order_and_deployments_come_last() {
    let overlays =
        "{name: stated, provider: openai, models: [\"gpt-4o*\"], pricing: {perMillionTokens: {input: \"2\"}}},
        {name: discount, provider: openai, discountPercent: \"50\"}, {name: margin, surchargePercent: \"10\"}";
    let own = ("own", "provider: openai, model: gpt-4o, pricing: {perMillionTokens: {input: \"7\", output: \"8\"}}");
    let like = (
        "like",
        "provider: azure, endpoint: {baseURL: \"https://x.openai.azure.com\"}, model: prod, \
        pricing: {like: openai/gpt-4o, perMillionTokens: {output: \"9\"}}",
    );
    let free = ("free", "provider: openai, model: gpt-4o, pricing: {free: true}");
    let compiled = world(overlays, &[FOUR, own, like, free]).compile();
    assert_eq!(compiled.errors(), Vec::<String>::new());
    assert_eq!(rates(&compiled, "four"), ["1.1", "5.5"]);
    assert_eq!(rates(&compiled, "own"), ["7", "8"]);
    assert_eq!(rates(&compiled, "like"), ["1.1", "9"]);
    assert_eq!(rates(&compiled, "free"), ["0", "0"]);
    let chain = format!("overlay margin (+10%) over overlay discount (-50%) over overlay stated over {VERSION} gpt-4o");
    assert_eq!(unsealed(&version(&compiled, "four")), chain);
    assert_eq!(unsealed(&version(&compiled, "like")), format!("default/like over {chain}"));
    assert_eq!(unsealed(&version(&compiled, "own")), "default/own");
}

#[test]
fn a_version_changes_with_the_rates_and_with_nothing_else() {
    let of = |input: &str, weight: u32| {
        let spec = format!(
            "provider: openai, model: x, weight: {weight}, pricing: {{perMillionTokens: {{input: \"{input}\", output: \"1\"}}}}"
        );
        version(&world("", &[("d", &spec)]).compile(), "d")
    };
    assert_eq!(of("1", 1), of("1.00", 2));
    assert_ne!(of("1", 1), of("2", 1));
}

#[test]
fn an_overlay_gives_prices_to_what_the_list_does_not_know() {
    let overlays = "{name: deployments, provider: azure, models: [prod], pricing: {like: azure/gpt-4o}},
        {name: eight, provider: azure, discountPercent: \"8\"},
        {name: home, provider: vllm, pricing: {free: true}}";
    let azure = ("azure", "provider: azure, endpoint: {baseURL: \"https://x.openai.azure.com\"}, model: prod");
    let home = ("home", "provider: vllm, endpoint: {baseURL: \"http://vllm.example.com/v1\"}, model: llama");
    let compiled = world(overlays, &[azure, home]).compile();
    assert_eq!(rates(&compiled, "azure"), ["2.3", "9.2"]);
    assert_eq!(rates(&compiled, "home"), ["0", "0"]);
    assert_eq!(compiled.said("home", Reason::PriceUnknown), Vec::<&tollgate_snapshot::Finding>::new());
    // What the list knows of the model beside its price holds too.
    assert_eq!(compiled.deployment("azure").unwrap().max_output_tokens, Some(16_384));
}

fn config_map(text: &str) -> String {
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    format!("---\nkind: ConfigMap\nmetadata: {{name: contract}}\ndata:\n  prices.jsonl: |\n{indented}")
}

const TABLE: &str = "{name: table, configMapRef: {name: contract, key: prices.jsonl}}";

#[test]
fn a_config_map_replaces_models_as_a_whole() {
    let lines = "# 2027\n{\"m\":\"gpt-4o\",\"p\":\"openai\",\"k\":\"chat\",\"r\":[\"in 0.000002\",\"out 0.000009\"]}\n\
        {\"m\":\"azure/prod\",\"p\":\"azure\",\"k\":\"chat\",\"r\":[\"in 0.000001\"]}";
    let yaml = format!("{}{}{}{SECRET}", gateway(TABLE), deployment(FOUR.0, FOUR.1), config_map(lines));
    let compiled = World::read(&yaml).compile();
    assert_eq!(compiled.findings, []);
    assert_eq!(rates(&compiled, "four"), ["2", "9"]);
    assert_eq!(unsealed(&version(&compiled, "four")), "overlay table gpt-4o");
    assert_eq!(compiled.deployment("four").unwrap().price.as_ref().unwrap().rows().len(), 2);
}

#[test]
fn prices_stay_as_they_were_while_an_overlay_cannot_be_used() {
    let lines = "{\"m\":\"gpt-4o\",\"p\":\"openai\",\"k\":\"chat\",\"r\":[\"in 0.000002\",\"out 0.000009\"]}";
    let yaml = |lines: &str, model: &str| {
        let four = deployment("four", &format!("provider: openai, model: {model}"));
        format!("{}{four}{}{SECRET}", gateway(TABLE), config_map(lines))
    };
    let good = World::read(&yaml(lines, "gpt-4o"));
    let broken = good.edited(&yaml("nonsense", "gpt-4o")).compile();
    assert_eq!(rates(&broken, "four"), ["2", "9"]);
    let [finding] = broken.said("main", Reason::Malformed)[..] else { panic!("{:?}", broken.findings) };
    assert_eq!((finding.severity, &*finding.field), (Severity::Error, "spec.prices.overlays[0].configMapRef"));
    assert!(
        finding.message.starts_with("entry `prices.jsonl` of ConfigMap `contract`: line 1: "),
        "{}",
        finding.message
    );
    // Without one that it had, the list's; for another model too.
    assert_eq!(rates(&World::read(&yaml("nonsense", "gpt-4o")).compile(), "four"), ["2.5", "10"]);
    assert_eq!(rates(&good.edited(&yaml("nonsense", "gpt-4o-mini")).compile(), "four"), ["0.15", "0.6"]);
    // The overlay goes: so does its price.
    let gone = good.edited(&format!("{}{}{SECRET}", gateway(""), deployment(FOUR.0, FOUR.1))).compile();
    assert_eq!(rates(&gone, "four"), ["2.5", "10"]);
}

#[test]
fn what_is_wrong_or_of_no_use_is_said_of_the_gateway() {
    let cases = [
        ("{name: a, provider: openay, discountPercent: \"5\"}", Reason::UnknownProvider, ".provider"),
        ("{name: a, discountPercent: \"101\"}", Reason::InvalidValue, ".discountPercent"),
        ("{name: a, discountPercent: \"5.00001\"}", Reason::InvalidValue, ".discountPercent"),
        ("{name: a, surchargePercent: \"1001\"}", Reason::InvalidValue, ".surchargePercent"),
        ("{name: a, surchargePercent: \"x\"}", Reason::InvalidValue, ".surchargePercent"),
        ("{name: a}", Reason::ExactlyOne, ""),
        ("{name: a, discountPercent: \"5\", surchargePercent: \"5\"}", Reason::ExactlyOne, ""),
        ("{name: a, pricing: {}}", Reason::ExactlyOne, ".pricing"),
        ("{name: a, pricing: {like: openai/nothing}}", Reason::PriceUnknown, ".pricing.like"),
        ("{name: a, pricing: {rates: [{unit: Banana, price: \"1\"}]}}", Reason::InvalidValue, ".pricing.rates[0].unit"),
        (
            "{name: a, pricing: {rates: [{unit: Query, price: \"1\"}, {unit: Query, price: \"2\"}]}}",
            Reason::InvalidValue,
            ".pricing",
        ),
        ("{name: a, configMapRef: {name: missing, key: k}}", Reason::NotFound, ".configMapRef"),
        ("{name: a, models: [\"claude-*\"], discountPercent: \"5\"}", Reason::Unreachable, ""),
        ("{name: a, provider: anthropic, discountPercent: \"5\"}", Reason::Unreachable, ""),
    ];
    for (overlay, reason, field) in cases {
        let compiled = world(overlay, &[FOUR]).compile();
        let found: Vec<(Reason, &str)> =
            compiled.findings.iter().map(|finding| (finding.reason, &*finding.field)).collect();
        assert!(found.contains(&(reason, &*format!("spec.prices.overlays[0]{field}"))), "{overlay}: {found:?}");
        assert_eq!(rates(&compiled, "four"), ["2.5", "10"], "{overlay}");
    }
    let twice = world("{name: a, discountPercent: \"5\"}, {name: a, discountPercent: \"5\"}", &[FOUR]).compile();
    assert_eq!(twice.said("main", Reason::Duplicate).len(), 1);
    assert_eq!(rates(&twice, "four"), ["2.375", "9.5"]);
}

#[test]
fn one_gateway_does_not_see_the_prices_of_another() {
    let yaml = format!(
        "kind: LLMGateway\nmetadata: {{name: one}}\nspec: {{default: true, prices: {{overlays: [{{name: a, discountPercent: \"50\"}}]}}}}\n---\n\
         kind: LLMGateway\nmetadata: {{name: two}}\nspec: {{}}\n{}{}{SECRET}",
        deployment(FOUR.0, FOUR.1),
        deployment("second", "gatewayRef: {name: two}, provider: openai, model: gpt-4o"),
    );
    let world = World::read(&yaml);
    let of = |name: &str| {
        let gateway = tollgate_snapshot::GatewayName { namespace: "default".into(), name: name.into() };
        World { gateway: Some(gateway), mode: tollgate_snapshot::compile::Mode::Cluster, ..world.clone() }.compile()
    };
    assert_eq!(rates(&of("one"), "four"), ["1.25", "5"]);
    assert_eq!(rates(&of("two"), "second"), ["2.5", "10"]);
}
