//! From a path to something that can be served: read, parse on all cores, compile. Keeps what it needs to keep the last
//! good state of an object whose new text is bad.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use tollgate_snapshot::compile::{Compiled, Document, Input, KeyHashes, Mode, Secrets, compile};
use tollgate_snapshot::model::{Endpoint, KeyHash, Snapshot};
use tollgate_snapshot::{Finding, ObjectRef, Reason, Severity};

use super::document::{self, Parsed, Part, Variables};
use super::files::{self, File};
use super::keys::Keys;
use super::locate::locate;

/// Where a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or folder.
    Path(PathBuf),
    /// What is built in, for the first five minutes.
    Demo,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Demo => f.write_str("built-in demo"),
        }
    }
}

/// The resources of the demo.
pub const DEMO: &str = include_str!("demo.yaml");

/// A finding and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub finding: Finding,
    pub file: Option<PathBuf>,
    /// Line and column of the file, from 1.
    pub at: Option<(usize, usize)>,
}

/// A key that was made because a VirtualKey asked for one.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub object: ObjectRef,
    pub path: PathBuf,
    pub text: String,
}

/// A configuration, read and compiled.
pub struct Loaded {
    pub snapshot: Snapshot,
    pub credentials: Vec<tollgate_snapshot::Credential>,
    pub findings: Vec<Placed>,
    /// All generated keys of this configuration, old and new.
    pub keys: Vec<NewKey>,
    /// `LLMGateway.spec.listeners` and the like are read by whoever starts.
    pub is_litellm: bool,
}

/// What loading needs besides the source.
pub struct Settings<'a> {
    pub default_namespace: &'a str,
    pub variables: Variables<'a>,
    /// Where generated keys are kept; `None`: none are made (`check`, `explain`).
    pub keys: Option<&'a Keys>,
    /// Where the mock provider listens.
    pub mock: Option<Endpoint>,
    /// Unix seconds.
    pub now: i64,
}

/// One document and where it stands.
struct Entry {
    file: usize,
    line: usize,
    object: ObjectRef,
}

/// Everything that a set of files says, before it is compiled.
#[derive(Default)]
struct Gathered {
    documents: Vec<Document>,
    entries: HashMap<ObjectRef, Entry>,
    secrets: Secrets,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    findings: Vec<Placed>,
    is_litellm: bool,
}

/// Reads and compiles a source. `previous`: what is served now, for objects whose new text is bad.
///
/// # Errors
/// The path cannot be read. Whatever is wrong inside files is a finding.
pub fn load(source: &Source, settings: &Settings<'_>, previous: Option<&Snapshot>) -> anyhow::Result<Loaded> {
    let files = match source {
        Source::Path(path) => files::read(path)?,
        Source::Demo => vec![File { path: "demo.yaml".into(), text: DEMO.to_owned() }],
    };
    let mut gathered = gather(&files, settings);
    let (key_hashes, keys) = key_hashes(&mut gathered, settings)?;
    let input = Input {
        documents: &gathered.documents,
        secrets: &gathered.secrets,
        namespaces: &gathered.namespaces,
        mode: Mode::Standalone,
        mock_endpoint: settings.mock.clone(),
        key_hashes: &key_hashes,
        previous,
        default_namespace: settings.default_namespace,
        now: settings.now,
    };
    let Compiled { snapshot, credentials, findings } = compile(input);
    let mut placed = gathered.findings;
    placed.extend(findings.into_iter().map(|finding| place(finding, &gathered.entries, &files)));
    placed.sort_by(|a, b| (&a.file, a.at, a.finding.severity).cmp(&(&b.file, b.at, b.finding.severity)));
    Ok(Loaded { snapshot, credentials, findings: placed, keys, is_litellm: gathered.is_litellm })
}

/// Parses all files, on as many threads as there are cores: 10,000 keys should not keep anyone waiting.
fn gather(files: &[File], settings: &Settings<'_>) -> Gathered {
    let mut gathered = Gathered::default();
    let mut parts: Vec<(usize, Part<'_>)> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        if tollgate_import::is_litellm(&file.text) {
            gathered.is_litellm = true;
            import(&mut gathered, index, file, settings);
        } else {
            parts.extend(document::split(&file.text).into_iter().map(|part| (index, part)));
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(parts.len().div_ceil(64)).max(1);
    let share = parts.len().div_ceil(threads).max(1);
    let read_all = |parts: &[(usize, Part<'_>)]| -> Vec<document::Read> {
        parts.iter().map(|(_, part)| document::read(*part, settings.default_namespace, settings.variables)).collect()
    };
    let reads: Vec<document::Read> = std::thread::scope(|scope| {
        let workers: Vec<_> = parts.chunks(share).skip(1).map(|chunk| scope.spawn(move || read_all(chunk))).collect();
        let mut reads = parts.chunks(share).next().map(read_all).unwrap_or_default();
        for worker in workers {
            match worker.join() {
                Ok(more) => reads.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        reads
    });
    for ((file, part), read) in parts.into_iter().zip(reads) {
        add(&mut gathered, files, file, part, read);
    }
    gathered
}

fn add(gathered: &mut Gathered, files: &[File], file: usize, part: Part<'_>, read: document::Read) {
    let path = &files[file].path;
    for finding in read.findings {
        let inside = read.at.or_else(|| locate(part.text, &finding.field));
        let at = inside.map(|(line, column)| (line + part.line - 1, column));
        gathered.findings.push(Placed { finding, file: Some(path.clone()), at });
    }
    let Some(parsed) = read.parsed else { return };
    let is_resource = matches!(parsed, Parsed::Resource(_) | Parsed::Secret(_));
    if is_resource && let Some(first) = gathered.entries.get(&read.object) {
        let message = format!(
            "{} is written a second time; the first is in `{}`, line {}",
            read.object,
            files[first.file].path.display(),
            first.line
        );
        let finding = Finding::error(&read.object, Reason::Duplicate, "metadata.name", message);
        let at = Some((part.line, 1));
        gathered.findings.push(Placed { finding, file: Some(path.clone()), at });
        return;
    }
    gathered.entries.insert(read.object.clone(), Entry { file, line: part.line, object: read.object });
    match parsed {
        Parsed::Resource(document) => gathered.documents.push(document),
        Parsed::Secret(secret) => {
            gathered.secrets.insert(secret);
        }
        Parsed::Namespace { name, labels } => {
            gathered.namespaces.insert(name, labels);
        }
        Parsed::Foreign => {}
    }
}

/// A LiteLLM configuration becomes resources in memory.
fn import(gathered: &mut Gathered, index: usize, file: &File, settings: &Settings<'_>) {
    let imported = tollgate_import::import(&file.text, settings.default_namespace, settings.variables);
    for note in imported.notes {
        let severity = if note.is_error { Severity::Error } else { Severity::Warning };
        let object =
            ObjectRef { kind: "LiteLLM", namespace: settings.default_namespace.to_owned(), name: String::new() };
        let reason = if note.is_error { Reason::Malformed } else { Reason::NotSupportedYet };
        let at = locate(&file.text, &note.path);
        let finding = Finding { object, severity, reason, field: note.path, message: note.message, hint: note.hint };
        gathered.findings.push(Placed { finding, file: Some(file.path.clone()), at });
    }
    for document in imported.documents {
        let object = document.object_ref();
        gathered.entries.insert(object.clone(), Entry { file: index, line: 1, object });
        gathered.documents.push(document);
    }
    for secret in imported.secrets {
        gathered.secrets.insert(secret);
    }
}

/// The hash of every key that is kept in a Secret or file; makes those that are missing.
fn key_hashes(gathered: &mut Gathered, settings: &Settings<'_>) -> anyhow::Result<(KeyHashes, Vec<NewKey>)> {
    let mut hashes = KeyHashes::default();
    let mut made = Vec::new();
    for document in &gathered.documents {
        let Document::VirtualKey(key) = document else { continue };
        let Some(wanted) = &key.spec.secret else { continue };
        let (namespace, name) = (&*key.meta.namespace, &*key.meta.name);
        let secret = gathered.secrets.get(namespace, &wanted.name);
        match (wanted.policy, secret) {
            (tollgate_crds::KeyPolicy::Adopt, Some(secret)) => {
                if let Some(text) = secret.data.get(&wanted.key) {
                    hashes.insert(namespace, name, KeyHash::of(text.trim().as_bytes()));
                }
            }
            // `compile` says what is missing.
            (tollgate_crds::KeyPolicy::Adopt, None) => {}
            (tollgate_crds::KeyPolicy::Generate, Some(_)) => {
                let object = document.object_ref();
                let message = format!("Secret `{}` exists and is not ours: it is never overwritten", wanted.name);
                let finding = Finding::error(&object, Reason::Duplicate, "spec.secret.name", message)
                    .hint("write policy: Adopt to use the key that it holds, or another name");
                gathered.findings.push(Placed { finding, file: None, at: None });
            }
            (tollgate_crds::KeyPolicy::Generate, None) => {
                let Some(keys) = settings.keys else {
                    // Nobody will call with it; any hash lets the rest be checked.
                    hashes.insert(namespace, name, KeyHash::of(format!("{namespace}/{name}").as_bytes()));
                    continue;
                };
                let generated = keys.get_or_create(namespace, &wanted.name)?;
                hashes.insert(namespace, name, KeyHash::of(generated.text.as_bytes()));
                if generated.is_new {
                    tracing::info!(key = %key.meta.name, "made the key of VirtualKey `{}` in `{}`", key.meta.name, generated.path.display());
                }
                made.push(NewKey { object: document.object_ref(), path: generated.path, text: generated.text });
            }
        }
    }
    Ok((hashes, made))
}

fn place(finding: Finding, entries: &HashMap<ObjectRef, Entry>, files: &[File]) -> Placed {
    let Some(entry) = entries.get(&finding.object) else { return Placed { finding, file: None, at: None } };
    let file = &files[entry.file];
    let part = document::split(&file.text).into_iter().find(|part| part.line == entry.line);
    let inside =
        part.and_then(|part| locate(part.text, &finding.field).map(|(line, column)| (line + part.line - 1, column)));
    let at = inside.or(Some((entry.line, 1)));
    debug_assert_eq!(entry.object, finding.object);
    Placed { finding, file: Some(file.path.clone()), at }
}

/// A finding as one line: place, severity, object, reason, text, advice.
pub fn line(placed: &Placed, base: Option<&Path>) -> String {
    let Placed { finding, file, at } = placed;
    let shown = file
        .as_deref()
        .map(|file| base.and_then(|base| file.strip_prefix(base).ok()).unwrap_or(file).display().to_string());
    let place = match (shown, at) {
        (Some(file), Some((line, column))) => format!("{file}:{line}:{column}: "),
        (Some(file), None) => format!("{file}: "),
        (None, _) => String::new(),
    };
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let object = if finding.object.name.is_empty() { String::new() } else { format!("{}: ", finding.object) };
    let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
    let hint = if finding.hint.is_empty() { String::new() } else { format!(" ({})", finding.hint) };
    format!("{place}{severity}: {object}{field}{}{hint} [{}]", finding.message, finding.reason)
}
