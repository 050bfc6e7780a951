//! What every object last said that could be read, and in which file it stood, for documents that cannot be read now. Kept
//! in the data folder, so that it survives a restart, and opened only when it is needed. Texts of Secrets are kept in
//! memory alone.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_snapshot::ObjectRef;
use tollgate_snapshot::compile::{self, Document, Meta, Secret};

use super::document::{self, Part};

/// An object as it could be read last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub file: PathBuf,
    kind: String,
    namespace: String,
    name: String,
    /// A YAML document.
    pub text: String,
}

impl Kept {
    pub fn new(file: &Path, object: &ObjectRef, text: String) -> Kept {
        let ObjectRef { kind, namespace, name } = object;
        Kept { file: file.to_owned(), kind: (*kind).to_owned(), namespace: namespace.clone(), name: name.clone(), text }
    }
}

/// Where the objects that were read last are found.
pub struct LastGood {
    path: PathBuf,
    /// Of this process, with their files.
    secrets: Vec<(PathBuf, Secret)>,
}

impl LastGood {
    /// `data`: the data folder.
    pub fn new(data: &Path) -> LastGood {
        LastGood { path: data.join("last-good.json"), secrets: Vec::new() }
    }

    /// Replaces what is kept.
    ///
    /// # Errors
    /// The file cannot be written; the one before it stays.
    pub fn keep(&mut self, kept: &[Kept], secrets: Vec<(PathBuf, Secret)>) -> anyhow::Result<()> {
        self.secrets = secrets;
        let partial = self.path.with_extension("partial");
        let mut file = std::io::BufWriter::new(super::files::create_private(&partial)?);
        serde_json::to_writer(&mut file, kept)?;
        file.flush()?;
        std::fs::rename(&partial, &self.path)?;
        Ok(())
    }

    /// Everything that is kept; nothing where there is no file yet, or one that is not ours.
    pub fn open(&self) -> Opened<'_> {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let kept: Vec<Kept> = serde_json::from_slice(&bytes).unwrap_or_default();
        let by_name = kept.iter().enumerate().map(|(at, kept)| {
            let Kept { file: _, kind, namespace, name, text: _ } = kept;
            ((kind.clone(), namespace.clone(), name.clone()), at)
        });
        Opened { by_name: by_name.collect(), kept, secrets: &self.secrets }
    }
}

/// What is kept, by names.
pub struct Opened<'a> {
    kept: Vec<Kept>,
    by_name: HashMap<(String, String, String), usize>,
    secrets: &'a [(PathBuf, Secret)],
}

impl Opened<'_> {
    pub fn get(&self, object: &ObjectRef) -> Option<&Kept> {
        let ObjectRef { kind, namespace, name } = object;
        let at = self.by_name.get(&((*kind).to_owned(), namespace.clone(), name.clone()))?;
        Some(&self.kept[*at])
    }

    pub fn get_secret(&self, object: &ObjectRef) -> Option<&Secret> {
        let is_it = |secret: &Secret| secret.meta.namespace == object.namespace && secret.meta.name == object.name;
        self.secrets.iter().map(|(_, secret)| secret).find(|secret| object.kind == "Secret" && is_it(secret))
    }

    /// All that stood in a file.
    pub fn of_file<'o>(&'o self, file: &'o Path) -> impl Iterator<Item = &'o Kept> {
        self.kept.iter().filter(move |kept| kept.file == file)
    }

    pub fn secrets_of_file<'o>(&'o self, file: &'o Path) -> impl Iterator<Item = &'o Secret> {
        self.secrets.iter().filter(move |(from, _)| from == file).map(|(_, secret)| secret)
    }
}

/// A document that says what the object says.
pub fn text_of(document: &Document) -> String {
    let Meta { namespace, name, labels, annotations, created_at: _, deleting: _ } = document.meta();
    let spec = match document {
        Document::LLMGateway(object) => serde_json::to_value(&object.spec),
        Document::ProviderAccount(object) => serde_json::to_value(&object.spec),
        Document::ModelDeployment(object) => serde_json::to_value(&object.spec),
        Document::RouteGroup(object) => serde_json::to_value(&object.spec),
        Document::Team(object) => serde_json::to_value(&object.spec),
        Document::VirtualKey(object) => serde_json::to_value(&object.spec),
        Document::Budget(object) => serde_json::to_value(&object.spec),
    };
    serde_json::json!({
        "apiVersion": tollgate_crds::API_VERSION,
        "kind": document.kind(),
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "annotations": annotations},
        "spec": spec.expect("specs are made of what JSON has"),
    })
    .to_string()
}

/// The kept text of an object whose new text cannot be read as a whole, with the bounds of the new text that can be.
pub fn with_bounds(kind: &str, kept: &str, written: &str) -> String {
    let (Ok(kept_value), Ok(written)) = (yaml_serde::from_str::<Value>(kept), yaml_serde::from_str::<Value>(written))
    else {
        return kept.to_owned();
    };
    let is_readable =
        |object: &Value| document::read(Part { text: &object.to_string(), line: 1 }, "", &|_| None).parsed.is_some();
    compile::with_bounds(kind, &kept_value, &written, &is_readable).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(spec: &str) -> String {
        format!("apiVersion: tollgate.dev/v1alpha1\nkind: VirtualKey\nmetadata: {{name: ci}}\nspec: {{{spec}}}\n")
    }

    fn merged(kept: &str, written: &str) -> Value {
        let text = with_bounds("VirtualKey", &key(kept), &key(written));
        serde_json::from_str::<Value>(&text).unwrap()["spec"].clone()
    }

    #[test]
    fn bounds_that_can_be_read_apply_and_others_stay() {
        let kept = "models: [a], limits: {requestsPerMinute: 9, tokensPerMinute: 9}, keyHash: \"sha256:00\"";
        for (written, field, value) in [
            ("models: 3, disabled: true", "disabled", serde_json::json!(true)),
            ("models: 3, disabled: maybe", "disabled", serde_json::json!(true)),
            ("models: 3, expiresAt: [1]", "expiresAt", serde_json::json!("[1]")),
            ("models: 3", "models", serde_json::json!(["a"])),
            (
                "limits: {requestsPerMinute: many, tokensPerMinute: 5}",
                "limits",
                serde_json::json!({"requestsPerMinute": 9, "tokensPerMinute": 5}),
            ),
            ("models: 3, secret: {name: s}", "keyHash", Value::Null),
        ] {
            assert_eq!(merged(kept, written)[field], value, "{written}");
        }
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut last_good = LastGood::new(folder.path());
        let object = ObjectRef { kind: "Team", namespace: "n".into(), name: "t".into() };
        assert!(last_good.open().get(&object).is_none());
        let kept = Kept::new(Path::new("a.yaml"), &object, "x: 1\n".into());
        last_good.keep(std::slice::from_ref(&kept), Vec::new()).unwrap();
        let opened = last_good.open();
        assert_eq!(opened.get(&object), Some(&kept));
        assert_eq!(opened.of_file(Path::new("a.yaml")).count(), 1);
        assert_eq!(opened.of_file(Path::new("b.yaml")).count(), 0);
    }
}
