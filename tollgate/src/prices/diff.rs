//! `tollgate prices diff`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tollgate_snapshot::Severity;
use tollgate_snapshot::model::Snapshot;
use tollgate_snapshot::price::{ModelPrice, PriceFile, PriceSheet, PriceTable, VERSION};

use super::difference::{Difference, of_sheets};
use super::{Output, source};
use crate::check::{DEFAULT_NAMESPACE, load_with};
use crate::config::load::Loaded;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Another price list: in the form of the built-in one, or LiteLLM's price map.
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,

    /// Folder or file of resources, or a LiteLLM config.yaml: compare what its deployments cost.
    #[arg(long, short, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Namespace of objects in files that name none.
    #[arg(long, short, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,

    /// Also list models that only one of the lists has, which are counted otherwise.
    #[arg(long)]
    all: bool,

    /// How the differences are printed.
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// What was compared, and what differs.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    old: String,
    new: String,
    /// How many models or deployments were compared.
    compared: usize,
    changed: Vec<Changed>,
    /// Only in the new list.
    added: Vec<String>,
    /// Only in the old list.
    removed: Vec<String>,
}

/// A model or deployment whose price differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    /// A key of the lists, or `namespace/name` of a deployment.
    name: String,
    /// Provider and model of a deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    rates: Vec<Difference>,
}

/// Prints the differences; 1 when there are some.
///
/// # Errors
/// A path cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { file, config, namespace, all, output } = arguments;
    let other = file.as_deref().map(source::read).transpose()?;
    let shown = file.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    let report = match (config, &other) {
        (None, Some(other)) => of_lists(other, &shown),
        (None, None) => unreachable!("clap asks for one of them"),
        (Some(config), other) => of_configuration(config, namespace, other.as_ref(), &shown)?,
    };
    let text = match output {
        Output::Text => report.text(*all),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if report.is_same() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn of_lists(other: &PriceFile, shown: &str) -> Report {
    let models = |table: PriceTable<'_>| -> BTreeMap<String, ModelPrice> {
        table.iter().flatten().map(|price| (price.key.to_string(), price)).collect()
    };
    let (old, mut new) = (models(*PriceTable::embedded()), models(other.table()));
    let mut report = Report { old: VERSION.to_owned(), new: shown.to_owned(), ..Report::default() };
    for (name, old) in old {
        let Some(new) = new.remove(&name) else {
            report.removed.push(name);
            continue;
        };
        report.compare(name, None, Some(&old.sheet()), Some(&new.sheet()));
    }
    report.added = new.into_keys().collect();
    report
}

fn of_configuration(config: &Path, namespace: &str, other: Option<&PriceFile>, shown: &str) -> anyhow::Result<Report> {
    let Loaded { snapshot: now, findings, .. } = load_with(config, namespace, *PriceTable::embedded())?;
    let errors = findings.iter().filter(|placed| placed.finding.severity == Severity::Error).count();
    if errors > 0 {
        eprintln!("tollgate: {errors} errors in the configuration; `tollgate check` names them");
    }
    let mut report = Report::default();
    match other {
        None => {
            (report.old, report.new) = (VERSION.to_owned(), config.display().to_string());
            for deployment in &now.deployments {
                let listed = PriceTable::embedded().find(&deployment.provider, &deployment.model, None);
                let listed = listed.map(|price| price.sheet());
                let model = format!("{} {}", deployment.provider, deployment.model);
                let name = format!("{}/{}", deployment.namespace, deployment.name);
                report.compare(name, Some(model), listed.as_ref(), deployment.price.as_deref());
            }
        }
        Some(other) => {
            (report.old, report.new) = (format!("{} with {VERSION}", config.display()), shown.to_owned());
            let then = load_with(config, namespace, other.table())?.snapshot;
            let mut then = prices(&then);
            for (name, (model, old)) in prices(&now) {
                let new = then.remove(&name).and_then(|(_, price)| price);
                report.compare(name, Some(model), old.as_deref(), new.as_deref());
            }
        }
    }
    Ok(report)
}

/// Provider and model, and the price, of each deployment.
fn prices(snapshot: &Snapshot) -> BTreeMap<String, (String, Option<Arc<PriceSheet>>)> {
    let row = |deployment: &tollgate_snapshot::model::Deployment| {
        let name = format!("{}/{}", deployment.namespace, deployment.name);
        (name, (format!("{} {}", deployment.provider, deployment.model), deployment.price.clone()))
    };
    snapshot.deployments.iter().map(row).collect()
}

impl Report {
    fn compare(&mut self, name: String, model: Option<String>, old: Option<&PriceSheet>, new: Option<&PriceSheet>) {
        self.compared += 1;
        let rates = of_sheets(old, new);
        if !rates.is_empty() {
            self.changed.push(Changed { name, model, rates });
        }
    }

    fn is_same(&self) -> bool {
        let Report { old: _, new: _, compared: _, changed, added, removed } = self;
        changed.is_empty() && added.is_empty() && removed.is_empty()
    }

    fn text(&self, all: bool) -> String {
        let Report { old, new, compared, changed, added, removed } = self;
        let mut text = format!("--- {old}\n+++ {new}\n");
        for Changed { name, model, rates } in changed {
            let model = model.as_ref().map(|model| format!(" ({model})")).unwrap_or_default();
            let _ = writeln!(text, "{name}{model}");
            for rate in rates {
                let _ = writeln!(text, "  {rate}");
            }
        }
        for (word, names) in [("added", added), ("removed", removed)] {
            for name in names.iter().filter(|_| all) {
                let _ = writeln!(text, "{word}: {name}");
            }
        }
        let _ = write!(text, "{compared} compared, {} changed", changed.len());
        if !(added.is_empty() && removed.is_empty()) {
            let _ = write!(text, ", {} added, {} removed", added.len(), removed.len());
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(documents: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), documents).unwrap();
        folder
    }

    const DOCUMENTS: &str = "
apiVersion: tollgate.dev/v1alpha1
kind: LLMGateway
metadata: {name: main}
spec:
  prices: {overlays: [{name: contract, provider: openai, models: [gpt-4o], discountPercent: \"10\"}]}
---
apiVersion: tollgate.dev/v1alpha1
kind: ModelDeployment
metadata: {name: four}
spec: {provider: openai, model: gpt-4o, credential: {secretRef: {name: s, key: k}}}
---
apiVersion: tollgate.dev/v1alpha1
kind: ModelDeployment
metadata: {name: audio}
spec: {provider: openai, model: gpt-audio, credential: {secretRef: {name: s, key: k}}}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: sk-test}
";

    #[test]
    fn a_configuration_is_compared_with_the_list_it_was_made_from() {
        let folder = folder(DOCUMENTS);
        let report = of_configuration(folder.path(), "default", None, "").unwrap();
        assert_eq!((report.compared, report.changed.len()), (2, 1));
        let Changed { name, model, rates } = &report.changed[0];
        assert_eq!((name.as_str(), model.as_deref()), ("default/four", Some("openai gpt-4o")));
        assert!(rates.iter().any(|rate| rate.to_string() == "input token: 2.5 → 2.25 per million (-10.00%)"));
        assert!(!report.is_same());
    }

    #[test]
    fn another_list_is_compared_for_the_models_that_are_used() {
        let folder = folder(DOCUMENTS);
        let models = ["gpt-4o", "gpt-audio"].map(|key| PriceTable::embedded().get(key).unwrap());
        let same = PriceFile::from_models(models.clone()).unwrap();
        let report = of_configuration(folder.path(), "default", Some(&same), "same").unwrap();
        assert_eq!((report.compared, report.is_same()), (2, true));
        let [mut four, audio] = models;
        four.rows.iter_mut().for_each(|row| row.rate.0 *= 2);
        let dearer = PriceFile::from_models([four, audio]).unwrap();
        let report = of_configuration(folder.path(), "default", Some(&dearer), "dearer").unwrap();
        assert_eq!(report.changed.len(), 1);
        // The discount holds for both.
        assert!(report.text(false).contains("  input token: 2.25 → 4.5 per million (+100.00%)\n"), "{report:?}");
        let gone = PriceFile::from_models([]).unwrap();
        let report = of_configuration(folder.path(), "default", Some(&gone), "gone").unwrap();
        assert!(report.text(false).contains("default/audio (openai gpt-audio)\n  input token: 2.5 → - per million\n"));
    }

    #[test]
    fn lists_are_compared_model_by_model() {
        let all = PriceTable::embedded().iter().map(Result::unwrap).filter(|price| &*price.key != "gpt-4o");
        let mut extra = PriceTable::embedded().get("gpt-4o").unwrap();
        extra.key = "gpt-4o-next".into();
        let other = PriceFile::from_models(all.chain([extra])).unwrap();
        let report = of_lists(&other, "other");
        assert_eq!(
            (report.changed.len(), &*report.added, &*report.removed),
            (0, &["gpt-4o-next".to_owned()][..], &["gpt-4o".to_owned()][..])
        );
        assert!(report.text(true).contains("added: gpt-4o-next\nremoved: gpt-4o\n"));
        assert!(!report.text(false).contains("gpt-4o-next"));
    }
}
