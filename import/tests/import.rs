//! Whole files in, whole resources out: the text that is printed, what memory gets, what a cluster takes, and that
//! nothing is lost between.

#[path = "../../crds/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tollgate_crds::Resource;
use tollgate_import::{Note, Output, Printed, Variables, import, to_yaml};
use tollgate_snapshot::compile::{Document, Input, KeyHashes, Meta, Mode, Object, Secret, Secrets, compile};
use tollgate_snapshot::model::Endpoint;
use tollgate_snapshot::{Finding, Reason, Severity};
use yaml_serde::Value;

const FULL: &str = include_str!("configs/full.yaml");
const TYPICAL: &str = include_str!("configs/typical.yaml");
const ODD: &str = include_str!("configs/odd.yaml");
const ALL: [(&str, &str); 3] = [("full", FULL), ("typical", TYPICAL), ("odd", ODD)];

/// The variables that the files name, and the one that LiteLLM looks for by itself.
fn set_all(name: &str) -> Option<String> {
    let names = ["OPENAI_API_KEY", "AZURE_API_KEY", "ANTHROPIC_API_KEY", "DATABASE_URL"];
    names.contains(&name).then(|| format!("value of {name}"))
}

fn notes_text(notes: &[Note]) -> String {
    let line = |note: &Note| {
        let severity = if note.is_error { "error" } else { "warning" };
        let hint = if note.hint.is_empty() { String::new() } else { format!(" ({})", note.hint) };
        format!("{severity}: {}: {}{hint}\n", note.path, note.message)
    };
    notes.iter().map(line).collect()
}

/// Compares with a file beside this one. `UPDATE_EXPECTED=1` writes it instead, for a person to review.
fn expect_file(name: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{} differs; it would now be:\n{actual}", path.display());
}

fn documents(yaml: &str) -> Vec<Value> {
    use serde::Deserialize;
    yaml_serde::Deserializer::from_str(yaml).map(|document| Value::deserialize(document).unwrap()).collect()
}

#[test]
fn files_become_these_resources_and_notes() {
    for (name, config) in ALL {
        let Printed { yaml, notes } = to_yaml(config, Output::new("team-a"));
        expect_file(&format!("{name}.resources.yaml"), &yaml);
        expect_file(&format!("{name}.notes.txt"), &notes_text(&notes));
    }
}

#[test]
fn printed_resources_are_read_back_without_an_unknown_field() {
    for (name, config) in ALL {
        let yaml = to_yaml(config, Output::new("team-a")).yaml;
        let mut resources = 0;
        for document in documents(&yaml) {
            let kind = document["kind"].as_str().unwrap().to_owned();
            assert_eq!(document["metadata"]["namespace"], Value::from("team-a"));
            if kind == "Secret" {
                assert!(document["stringData"].as_mapping().is_some_and(|data| data.len() == 1));
                continue;
            }
            let mut unknown = Vec::new();
            let mut remember = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
            let deserializer = serde_ignored::Deserializer::new(document, &mut remember);
            let resource = Resource::deserialize(&kind, deserializer).expect("it is one of our kinds").unwrap();
            unknown.retain(|path| path != "apiVersion" && path != "kind");
            assert_eq!(unknown, Vec::<String>::new(), "{name}: {kind}");
            assert_eq!(resource.kind(), kind);
            resources += 1;
        }
        assert!(resources > 1, "{name}");
    }
}

#[test]
fn what_is_printed_is_what_is_served() {
    let served = import(FULL, "team-a", &set_all);
    let mut specs: BTreeMap<(String, String), Value> = BTreeMap::new();
    for document in &served.documents {
        let spec = match document {
            Document::LLMGateway(object) => yaml_serde::to_value(&object.spec),
            Document::ModelDeployment(object) => yaml_serde::to_value(&object.spec),
            Document::RouteGroup(object) => yaml_serde::to_value(&object.spec),
            Document::Budget(object) => yaml_serde::to_value(&object.spec),
            other => panic!("{} is never imported", other.kind()),
        };
        specs.insert((document.kind().to_owned(), document.meta().name.clone()), spec.unwrap());
    }
    let mut secrets = 0;
    for document in documents(&to_yaml(FULL, Output::new("team-a")).yaml) {
        let (kind, name) =
            (document["kind"].as_str().unwrap().to_owned(), document["metadata"]["name"].as_str().unwrap());
        if kind == "Secret" {
            let secret = served.secrets.iter().find(|secret| secret.meta.name == name).unwrap();
            let hosts = document["metadata"]["annotations"]["tollgate.dev/hosts"].as_str();
            assert_eq!(secret.meta.annotations.get("tollgate.dev/hosts").map(String::as_str), hosts, "{name}");
            for (key, value) in document["stringData"].as_mapping().unwrap() {
                let printed = value.as_str().unwrap();
                let expected = match printed.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
                    Some(variable) => set_all(variable).unwrap(),
                    None => printed.to_owned(),
                };
                assert_eq!(&*secret.data[key.as_str().unwrap()], expected.as_str(), "{name}");
            }
            secrets += 1;
            continue;
        }
        let key = (kind.clone(), name.to_owned());
        let resource = Resource::deserialize(&kind, document).unwrap().unwrap();
        let printed = serde_json::to_string(&resource.to_value()["spec"]).unwrap();
        let served = serde_json::to_string(&serde_json::to_value(specs.remove(&key).unwrap()).unwrap()).unwrap();
        assert_eq!(printed, served, "{key:?}");
    }
    assert_eq!(specs.len(), 0);
    assert_eq!(secrets, served.secrets.len());
}

#[test]
fn what_is_imported_compiles() {
    for (name, config) in [("full", FULL), ("typical", TYPICAL)] {
        let served = import(config, "default", &|name| match name {
            "AZURE_API_BASE" => Some("https://example.openai.azure.com/".to_owned()),
            "AZURE_API_VERSION" => Some("2025-04-01-preview".to_owned()),
            "LITELLM_MASTER_KEY" => Some("sk-0123456789abcdef0123456789".to_owned()),
            _ => set_all(name),
        });
        let (secrets, key_hashes) = (Secrets::from_iter(served.secrets), KeyHashes::default());
        let mut input = Input::new(&served.documents, &secrets, &key_hashes, Mode::Standalone, 0);
        input.mock_endpoint = Some(Endpoint { tls: false, host: "127.0.0.1".into(), port: 4001, path: "/v1".into() });
        let compiled = compile(input);
        let errors: Vec<_> = compiled.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        // Of what no note explains, nothing may be wrong; of the rest, only the provider that does not exist yet.
        let unexpected: Vec<_> = errors.iter().filter(|finding| finding.reason != Reason::UnknownProvider).collect();
        assert!(unexpected.is_empty(), "{name}: {unexpected:#?}");
        assert_eq!(errors.len(), usize::from(name == "typical"), "{errors:#?}");
    }
}

/// Every variable that the files name.
fn set_every(name: &str) -> Option<String> {
    match name {
        "AZURE_API_BASE" => Some("https://example.openai.azure.com/".to_owned()),
        "AZURE_API_VERSION" => Some("2025-04-01-preview".to_owned()),
        "CUSTOM_KEY" => None,
        _ if name.ends_with("_KEY") => Some(format!("sk-0123456789abcdef-of-{name}")),
        _ => None,
    }
}

fn filled(variables: Variables<'_>) -> Output<'_> {
    Output { fill: Some(variables), ..Output::new("team-a") }
}

/// What an API server would say against a document.
fn refusals(document: &serde_json::Value) -> Vec<String> {
    let (resource, unknown) = support::read(document);
    let kept = match &resource {
        Resource::LLMGateway(object) => object.validate_cel(),
        Resource::ProviderAccount(object) => object.validate_cel(),
        Resource::ModelDeployment(object) => object.validate_cel(),
        Resource::RouteGroup(object) => object.validate_cel(),
        Resource::Team(object) => object.validate_cel(),
        Resource::VirtualKey(object) => object.validate_cel(),
        Resource::Budget(object) => object.validate_cel(),
    };
    let mut refusals = support::problems(&support::schema_of(resource.kind()), document, "");
    refusals.extend(unknown);
    refusals.extend(kept.err().into_iter().flat_map(|errors| errors.into_vec()).map(|error| error.message));
    refusals
}

#[test]
fn what_is_printed_for_a_cluster_applies() {
    for (name, config) in ALL {
        let yaml = to_yaml(config, filled(&set_every)).yaml;
        let mut names = BTreeSet::new();
        for document in documents(&yaml) {
            let document = serde_json::to_value(&document).unwrap();
            let (kind, object) = (document["kind"].as_str().unwrap(), document["metadata"]["name"].as_str().unwrap());
            assert!(names.insert((kind.to_owned(), object.to_owned())), "{name}: {kind} {object} is printed twice");
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(object.len() <= 63 && object.bytes().all(is_name) && !object.starts_with('-'), "{object}");
            if kind != "Secret" {
                assert_eq!(refusals(&document), Vec::<String>::new(), "{name}: {kind} {object}");
            }
        }
        assert!(names.len() > 2, "{name}");
    }
}

#[test]
fn what_is_printed_for_a_cluster_compiles_there() {
    // What a note explains: a mock has no address in a cluster, and one provider does not exist yet.
    let of_the_mock =
        ["ModelDeployment fake EndpointMissing", "RouteGroup fake NotFound", "RouteGroup fake Unreachable"];
    for (name, config, noted) in
        [("full", FULL, &of_the_mock[..]), ("typical", TYPICAL, &["ModelDeployment nova UnknownProvider"])]
    {
        let yaml = to_yaml(config, filled(&set_every)).yaml;
        let (mut resources, mut secrets) = (Vec::new(), Secrets::default());
        for document in documents(&yaml) {
            let meta = |metadata: &Value| {
                let hosts = metadata["annotations"]["tollgate.dev/hosts"].as_str();
                let annotations = hosts.map(|hosts| ("tollgate.dev/hosts".to_owned(), hosts.to_owned()));
                let (namespace, name) = (metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap());
                Meta { annotations: annotations.into_iter().collect(), ..Meta::new(namespace, name) }
            };
            let meta = meta(&document["metadata"]);
            if document["kind"] == *"Secret" {
                let data = document["stringData"].as_mapping().unwrap().iter();
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let data = data.map(|(key, value)| (text(key), text(value).into())).collect();
                secrets.insert(Secret { meta, data });
                continue;
            }
            let spec = serde_json::to_value(&document["spec"]).unwrap();
            resources.push(match document["kind"].as_str().unwrap() {
                "LLMGateway" => Document::LLMGateway(object(meta, spec)),
                "ModelDeployment" => Document::ModelDeployment(object(meta, spec)),
                "RouteGroup" => Document::RouteGroup(object(meta, spec)),
                "Budget" => Document::Budget(object(meta, spec)),
                other => panic!("{other} is never imported"),
            });
        }
        let key_hashes = KeyHashes::default();
        let compiled = compile(Input::new(&resources, &secrets, &key_hashes, Mode::Cluster, 0));
        let errors = compiled.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let line = |finding: &Finding| format!("{} {} {}", finding.object.kind, finding.object.name, finding.reason);
        let errors: BTreeSet<String> = errors.map(line).collect();
        assert_eq!(errors.iter().map(String::as_str).collect::<Vec<_>>(), noted, "{name}: {:#?}", compiled.findings);
    }
}

fn object<S: serde::de::DeserializeOwned>(meta: Meta, spec: serde_json::Value) -> Box<Object<S>> {
    Box::new(Object { meta, spec: serde_json::from_value(spec).unwrap() })
}

#[test]
fn a_secret_that_cannot_be_filled_is_left_out_with_the_command_that_makes_it() {
    let config = "model_list:\n- model_name: a\n  litellm_params: {model: openai/a, api_key: os.environ/NO_SUCH_KEY, api_base: 'https://llm.example.com/v1'}\n\
        - model_name: b\n  litellm_params: {model: anthropic/b}\n\
        general_settings: {master_key: os.environ/SET_KEY}\n";
    let set = |name: &str| (name == "SET_KEY").then(|| "sk-0123456789abcdef0123".to_owned());
    let Printed { yaml, notes } = to_yaml(config, filled(&set));
    assert!(!yaml.contains("${"), "{yaml}");
    let kinds: Vec<String> =
        documents(&yaml).iter().map(|document| document["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["Secret", "LLMGateway", "ModelDeployment", "ModelDeployment"]);
    assert!(yaml.contains("key: sk-0123456789abcdef0123"));
    assert!(yaml.contains("#   kubectl -n team-a create secret generic no-such-key --from-literal=api-key=VALUE\n"));
    assert!(yaml.contains("#   kubectl -n team-a annotate secret no-such-key tollgate.dev/hosts=llm.example.com\n"));
    assert!(
        yaml.contains("#   kubectl -n team-a create secret generic anthropic-api-key --from-literal=api-key=VALUE\n")
    );
    assert_eq!(yaml.matches("secretRef").count(), 3, "what is left out is still referred to: {yaml}");
    let noted: Vec<(&str, bool)> = notes.iter().map(|note| (&*note.path, note.is_error)).collect();
    assert_eq!(
        noted,
        [("model_list[0].litellm_params.api_key", false), ("model_list[1].litellm_params.api_key", false)]
    );
    assert!(!notes_text(&notes).contains("sk-0123"));
}

#[test]
fn an_address_that_cannot_be_filled_is_an_error_and_never_a_key_for_somebody_else() {
    let config = "model_list:\n- model_name: a\n  litellm_params: {model: openai/a, api_key: sk-own, api_base: os.environ/NO_SUCH_BASE}\n";
    let Printed { yaml, notes } = to_yaml(config, filled(&|_| None));
    assert!(notes.iter().any(|note| note.is_error && note.message.contains("`NO_SUCH_BASE` is not set")));
    let deployments = documents(&yaml);
    let deployment = deployments.iter().find(|document| document["kind"] == *"ModelDeployment");
    let refusals = refusals(&serde_json::to_value(deployment).unwrap());
    assert!(!refusals.is_empty(), "no server takes it as it is");
}

#[test]
fn without_its_gateway_a_file_leaves_the_master_key_where_it_is() {
    let output = Output { gateway: false, ..filled(&set_every) };
    let Printed { yaml, notes } = to_yaml(FULL, output);
    assert!(!yaml.contains("LLMGateway") && !yaml.contains("sk-literal-master"), "{yaml}");
    assert!(notes.iter().any(|note| note.path.is_empty() && note.message.contains("master key")));
    let with = documents(&to_yaml(FULL, filled(&set_every)).yaml).len();
    assert_eq!(documents(&yaml).len() + 2, with);
}

#[test]
fn every_leaf_of_a_file_changes_what_comes_out() {
    for (name, config) in ALL {
        let whole: Value = yaml_serde::from_str(config).unwrap();
        let before = outcome(&whole);
        let mut paths = Vec::new();
        leaves(&whole, &mut Vec::new(), &mut paths);
        assert!(paths.len() > 20, "{name}");
        for path in paths {
            let changed = edits(&whole, &path).iter().any(|edited| outcome(edited) != before);
            assert!(changed || before.1.contains(&dotted(&path)), "{name}: {} is dropped in silence", dotted(&path));
        }
    }
}

/// What comes out, and the places that are noted.
fn outcome(config: &Value) -> (String, BTreeSet<String>) {
    let Printed { yaml, notes } = to_yaml(&yaml_serde::to_string(config).unwrap(), Output::new("team-a"));
    // What is noted about a whole block covers all that is in it.
    (format!("{yaml}{}", notes_text(&notes)), notes.into_iter().map(|note| note.path).collect())
}

#[derive(Clone, Debug)]
enum Step {
    Key(Value),
    Index(usize),
}

fn leaves(value: &Value, path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    match value {
        Value::Mapping(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                path.push(Step::Key(key.clone()));
                leaves(value, path, found);
                path.pop();
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                path.push(Step::Index(at));
                leaves(value, path, found);
                path.pop();
            }
        }
        _ => found.push(path.clone()),
    }
}

fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key.as_str().unwrap_or("?")),
            Step::Key(key) => text.push_str(&format!(".{}", key.as_str().unwrap_or("?"))),
            Step::Index(at) => text.push_str(&format!("[{at}]")),
        }
    }
    text
}

/// The file with the leaf gone, and with another value; and without the outermost block that is noted as a whole.
fn edits(whole: &Value, path: &[Step]) -> Vec<Value> {
    let mut gone = whole.clone();
    let (last, parents) = path.split_last().unwrap();
    match (at(&mut gone, parents), last) {
        (Value::Mapping(entries), Step::Key(key)) => drop(entries.remove(key)),
        (Value::Sequence(items), Step::Index(index)) => drop(items.remove(*index)),
        _ => unreachable!("the path was found in the same file"),
    }
    let mut other = whole.clone();
    let leaf = at(&mut other, path);
    *leaf = match &*leaf {
        Value::Bool(value) => (!*value).into(),
        Value::Number(_) => 7.into(),
        _ => "another value".into(),
    };
    let mut edits = vec![gone, other];
    // A block that has no equivalent gets one note, so that its parts count when the block does.
    for length in 1..path.len() {
        let notes = outcome(whole).1;
        if notes.contains(&dotted(&path[..length])) {
            let mut without = whole.clone();
            *at(&mut without, &path[..length]) = Value::Null;
            edits.push(without);
        }
    }
    edits
}

fn at<'v>(value: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key).unwrap(),
        Step::Index(at) => value.get_mut(*at).unwrap(),
    })
}

#[test]
fn a_place_is_noted_once_and_exists_or_is_missing_from_its_block() {
    for (name, config) in ALL {
        let notes = to_yaml(config, Output::new("team-a")).notes;
        let places: BTreeSet<&str> = notes.iter().map(|note| note.path.as_str()).collect();
        assert_eq!(places.len(), notes.len(), "{name}");
        assert!(notes.iter().all(|note| !note.message.is_empty() && !note.message.ends_with('.')), "{name}");
    }
}

#[test]
fn notes_never_hold_a_key() {
    let config = "model_list:\n- model_name: a\n  litellm_params: {model: openai/a, api_key: [sk-secret], other: sk-secret}\n\
        general_settings: {master_key: sk-secret, database_url: sk-secret}\nlitellm_settings: {x: sk-secret}\n\
        environment_variables: {KEY: sk-secret}\n";
    let served = import(config, "team-a", &set_all);
    for notes in [to_yaml(config, Output::new("team-a")).notes, served.notes] {
        assert!(notes.len() >= 4);
        assert!(!notes_text(&notes).contains("sk-secret"));
    }
}

#[test]
fn a_variable_that_is_not_set_is_an_error_that_names_it() {
    let config = "model_list:\n- model_name: a\n  litellm_params: {model: openai/a, api_key: os.environ/NO_SUCH_KEY}\n\
        general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n";
    let served = import(config, "team-a", &|_| None);
    let errors: Vec<&Note> = served.notes.iter().filter(|note| note.is_error).collect();
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[1].path, "model_list[0].litellm_params.api_key");
    assert_eq!(errors[1].message, "the environment variable `NO_SUCH_KEY` is not set");
    assert_eq!(served.documents.len(), 2, "the deployment is there all the same");
}

#[test]
fn keys_of_providers_come_from_the_environment_where_the_file_has_none() {
    let config = "model_list:\n- model_name: a\n  litellm_params: {model: openai/a}\n\
        - model_name: b\n  litellm_params: {model: openai/b, api_base: 'https://elsewhere.example/v1'}\n";
    let served = import(config, "team-a", &|name| (name == "OPENAI_API_KEY").then(|| "sk-env".to_owned()));
    let [secret] = served.secrets.as_slice() else { panic!("one Secret, found {:?}", served.secrets) };
    assert_eq!((&*secret.meta.name, &*secret.data["api-key"]), ("openai-api-key", "sk-env"));
    let credentials: Vec<bool> = served
        .documents
        .iter()
        .filter_map(|document| match document {
            Document::ModelDeployment(object) => Some(object.spec.credential.is_some()),
            _ => None,
        })
        .collect();
    assert_eq!(credentials, [true, false], "a key of OpenAI goes to OpenAI only");
    assert!(served.notes.iter().any(|note| note.path == "model_list[1].litellm_params.api_key"));
}

#[test]
fn broken_text_is_one_error() {
    for text in ["model_list: [", "model_list:\n\t- a", "model_list: {a: 1, a: 2}", "- a\n- b\n", "text", ""] {
        for notes in [to_yaml(text, Output::new("team-a")).notes, import(text, "team-a", &set_all).notes] {
            assert_eq!(notes.iter().filter(|note| note.is_error).count(), 1, "{text}: {notes:?}");
            assert_eq!(notes.len(), 1, "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_damage_to_a_file_stops_the_reader(which in 0usize..3, at in 0usize..5000, length in 0usize..40, text in "[\\[\\]{}:,&*!\"' \n a-z0-9.-]{0,12}") {
        let config: Vec<char> = ALL[which].1.chars().collect();
        let at = at.min(config.len());
        let end = (at + length).min(config.len());
        let damaged: String = config[..at].iter().copied().chain(text.chars()).chain(config[end..].iter().copied()).collect();
        let printed = to_yaml(&damaged, Output::new("team-a"));
        prop_assert!(!printed.yaml.is_empty() || printed.notes.iter().any(|note| note.is_error));
        import(&damaged, "team-a", &set_all);
    }

    #[test]
    fn names_of_objects_are_valid_and_unique(names in proptest::collection::vec("\\PC{1,30}|[a-b*/]{1,2}", 1..8)) {
        let list: Vec<serde_json::Value> = names.iter().map(|name| {
            serde_json::json!({"model_name": name, "litellm_params": {"model": "openai/*", "api_key": name, "num_retries": 1}})
        }).collect();
        let config = serde_json::json!({"model_list": list}).to_string();
        let served = import(&config, "team-a", &set_all);
        let mut seen = BTreeSet::new();
        let named = served.documents.iter().map(|document| (document.kind(), document.meta().name.clone()));
        for (kind, name) in named.chain(served.secrets.iter().map(|secret| ("Secret", secret.meta.name.clone()))) {
            prop_assert!(name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
            prop_assert!(!name.starts_with('-') && !name.ends_with('-') && !name.is_empty());
            prop_assert!(seen.insert((kind, name)));
        }
    }
}
