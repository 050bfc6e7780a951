//! From a path to something that can be served: read, parse on all cores, compile. Keeps what it needs to keep the last
//! good state of an object whose new text is bad.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use tollgate_snapshot::compile::{
    Compiled, ConfigMaps, Document, Input, KeyHashes, Mode, Secret, Secrets, Standing, compile, next_change,
};
use tollgate_snapshot::model::{Endpoint, KeyHash, Snapshot};
use tollgate_snapshot::price::PriceTable;
use tollgate_snapshot::{Finding, ObjectRef, Reason, Severity};

use super::document::{self, Parsed, Part, Variables};
use super::files::{self, File};
use super::keys::Keys;
use super::last_good::{self, Kept, LastGood, Opened};
use super::listeners::{self, Listener};
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
    /// URLs that are told of budgets.
    pub webhooks: Vec<tollgate_snapshot::Credential>,
    pub findings: Vec<Placed>,
    /// When loading again gives another result although no file changed. Unix seconds.
    pub next_change: Option<i64>,
    /// All generated keys of this configuration, old and new.
    pub keys: Vec<NewKey>,
    /// Of the gateway; at least one.
    pub listeners: Vec<Listener>,
    pub is_litellm: bool,
    /// For [`LastGood::keep`], once this configuration is served.
    pub kept: Vec<Kept>,
    pub secrets: Vec<(PathBuf, Secret)>,
}

/// What was served before, for objects whose new text is bad.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub snapshot: Option<&'a Snapshot>,
    pub last_good: &'a LastGood,
}

/// What loading needs besides the source.
pub struct Settings<'a> {
    pub default_namespace: &'a str,
    pub variables: Variables<'a>,
    /// Where generated keys are kept; `None`: none are made (`check`, `explain`).
    pub keys: Option<&'a Keys>,
    /// Where the mock provider listens.
    pub mock: Option<Endpoint>,
    /// The price list.
    pub prices: PriceTable<'a>,
    /// Unix seconds.
    pub now: i64,
}

/// One document and where it stands.
pub(super) struct Entry {
    file: usize,
    line: usize,
    object: ObjectRef,
}

/// Everything that a set of files says, before it is compiled.
#[derive(Default)]
pub(super) struct Gathered {
    pub documents: Vec<Document>,
    pub entries: HashMap<ObjectRef, Entry>,
    unreadable: Unreadable,
    kept: Vec<Kept>,
    pub secrets: Secrets,
    pub config_maps: ConfigMaps,
    secret_files: Vec<(PathBuf, Secret)>,
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub findings: Vec<Placed>,
    pub is_litellm: bool,
}

/// Documents that could not be read.
#[derive(Default)]
struct Unreadable {
    /// Those that still say which object they are, with their text.
    objects: Vec<(Entry, String)>,
    /// Files with one that does not.
    files: BTreeSet<usize>,
}

/// Reads and compiles a source.
///
/// # Errors
/// The path cannot be read. Whatever is wrong inside files is a finding.
pub fn load(source: &Source, settings: &Settings<'_>, before: Option<Before<'_>>) -> anyhow::Result<Loaded> {
    let files = match source {
        Source::Path(path) => files::read(path)?,
        Source::Demo => vec![File { path: "demo.yaml".into(), text: DEMO.to_owned() }],
    };
    let mut gathered = gather(&files, settings);
    if let Some(before) = before {
        recover(&mut gathered, &files, settings, before.last_good);
    }
    let (key_hashes, keys) = key_hashes(&mut gathered, settings)?;
    let input = Input {
        documents: gathered.documents.iter().collect(),
        gateway: None,
        standing: &Standing::default(),
        secrets: &gathered.secrets,
        config_maps: &gathered.config_maps,
        prices: settings.prices,
        namespaces: &gathered.namespaces,
        mode: Mode::Standalone,
        mock_endpoint: settings.mock.clone(),
        key_hashes: &key_hashes,
        previous: before.and_then(|before| before.snapshot),
        default_namespace: settings.default_namespace,
        now: settings.now,
    };
    let Compiled { snapshot, credentials, webhooks, findings } = compile(input);
    let next_change = next_change(&gathered.documents, settings.now);
    let (listeners, of_certificates) = listeners::of(&gathered.documents, &gathered.secrets, &snapshot.gateway);
    let mut placed = gathered.findings;
    placed.extend(findings.into_iter().chain(of_certificates).map(|finding| place(finding, &gathered.entries, &files)));
    sort(&mut placed);
    Ok(Loaded {
        snapshot,
        credentials,
        webhooks,
        findings: placed,
        next_change,
        keys,
        listeners,
        is_litellm: gathered.is_litellm,
        kept: gathered.kept,
        secrets: gathered.secret_files,
    })
}

/// As people read them: file by file from the top, errors before warnings.
pub(super) fn sort(placed: &mut [Placed]) {
    placed.sort_by(|a, b| (&a.file, a.at, a.finding.severity).cmp(&(&b.file, b.at, b.finding.severity)));
}

/// Parses all files, on as many threads as there are cores: 10,000 keys should not keep anyone waiting.
pub(super) fn gather(files: &[File], settings: &Settings<'_>) -> Gathered {
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
    let is_known = read.object.kind != "Document" && !read.object.name.is_empty();
    let entry = Entry { file, line: part.line, object: read.object };
    let Some(parsed) = read.parsed else {
        if is_known {
            gathered.unreadable.objects.push((entry, part.text.to_owned()));
        } else {
            gathered.unreadable.files.insert(file);
        }
        return;
    };
    let is_resource = matches!(parsed, Parsed::Resource(_) | Parsed::Secret(_) | Parsed::ConfigMap { .. });
    if is_resource && let Some(first) = gathered.entries.get(&entry.object) {
        let message = format!(
            "{} is written a second time; the first is in `{}`, line {}",
            entry.object,
            files[first.file].path.display(),
            first.line
        );
        let finding = Finding::error(&entry.object, Reason::Duplicate, "metadata.name", message);
        let at = Some((part.line, 1));
        gathered.findings.push(Placed { finding, file: Some(path.clone()), at });
        return;
    }
    take(gathered, path, entry, parsed, || part.text.to_owned());
}

/// Takes an object in. `text`: a document that says the same.
fn take(gathered: &mut Gathered, path: &Path, entry: Entry, parsed: Parsed, text: impl FnOnce() -> String) {
    if matches!(parsed, Parsed::Resource(_) | Parsed::Namespace { .. } | Parsed::ConfigMap { .. }) {
        gathered.kept.push(Kept::new(path, &entry.object, text()));
    }
    gathered.entries.insert(entry.object.clone(), entry);
    match parsed {
        Parsed::Resource(document) => gathered.documents.push(document),
        Parsed::Secret(secret) => {
            gathered.secret_files.push((path.to_owned(), secret.clone()));
            gathered.secrets.insert(secret);
        }
        Parsed::Namespace { name, labels } => {
            gathered.namespaces.insert(name, labels);
        }
        Parsed::ConfigMap { namespace, name, data } => gathered.config_maps.insert(&namespace, &name, data),
        Parsed::Foreign => {}
    }
}

/// Puts what could be read last in the place of what cannot be read now. Objects that a readable file no longer has are
/// gone; of a file in which it cannot be told, all stay.
fn recover(gathered: &mut Gathered, files: &[File], settings: &Settings<'_>, last_good: &LastGood) {
    let Unreadable { objects, files: unclear } = std::mem::take(&mut gathered.unreadable);
    if objects.is_empty() && unclear.is_empty() {
        return;
    }
    let last_good: Opened<'_> = last_good.open();
    let read = |text: &str| document::read(Part { text, line: 1 }, settings.default_namespace, settings.variables);
    for (entry, written) in objects {
        if gathered.entries.contains_key(&entry.object) {
            continue;
        }
        let (path, object, line) = (&files[entry.file].path, entry.object.clone(), entry.line);
        if let Some(secret) = last_good.get_secret(&object) {
            take(gathered, path, entry, Parsed::Secret(secret.clone()), String::new);
        } else {
            let Some(kept) = last_good.get(&object) else { continue };
            let text = last_good::with_bounds(object.kind, &kept.text, &written);
            let Some(parsed) = read(&text).parsed else { continue };
            take(gathered, path, entry, parsed, || text);
        }
        let message = "what is written cannot be read; the last good state stays in use";
        let finding = Finding::warning(&object, Reason::LastGoodKept, "", message);
        gathered.findings.push(Placed { finding, file: Some(path.clone()), at: Some((line, 1)) });
    }
    for file in unclear {
        let path = &files[file].path;
        let mut count = 0;
        for secret in last_good.secrets_of_file(path) {
            let Secret { meta, data: _ } = secret;
            let object = ObjectRef { kind: "Secret", namespace: meta.namespace.clone(), name: meta.name.clone() };
            if !gathered.entries.contains_key(&object) {
                count += 1;
                take(gathered, path, Entry { file, line: 1, object }, Parsed::Secret(secret.clone()), String::new);
            }
        }
        for kept in last_good.of_file(path) {
            let document::Read { object, parsed: Some(parsed), .. } = read(&kept.text) else { continue };
            if !gathered.entries.contains_key(&object) {
                count += 1;
                take(gathered, path, Entry { file, line: 1, object }, parsed, || kept.text.clone());
            }
        }
        if count > 0 {
            let object = ObjectRef { kind: "Document", namespace: String::new(), name: String::new() };
            let message =
                format!("which objects are meant cannot be read; {count} that the file held stay in use as they were");
            let finding = Finding::warning(&object, Reason::LastGoodKept, "", message);
            gathered.findings.push(Placed { finding, file: Some(path.clone()), at: None });
        }
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
    if imported.documents.is_empty() {
        gathered.unreadable.files.insert(index);
    }
    for document in imported.documents {
        let entry = Entry { file: index, line: 1, object: document.object_ref() };
        let text = last_good::text_of(&document);
        take(gathered, &file.path, entry, Parsed::Resource(document), || text);
    }
    for secret in imported.secrets {
        gathered.secret_files.push((file.path.clone(), secret.clone()));
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
                let finding = not_ours(&document.object_ref(), &wanted.name);
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

/// A key cannot be generated into a Secret that somebody else made.
pub(super) fn not_ours(key: &ObjectRef, secret: &str) -> Finding {
    let message = format!("Secret `{secret}` exists and is not ours: it is never overwritten");
    Finding::error(key, Reason::Duplicate, "spec.secret.name", message)
        .hint("write policy: Adopt to use the key that it holds, or another name")
}

pub(super) fn place(finding: Finding, entries: &HashMap<ObjectRef, Entry>, files: &[File]) -> Placed {
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEAM: &str = "apiVersion: tollgate.dev/v1alpha1\nkind: Team\nmetadata: {name: squad}\nspec: {models: [a]}\n";
    const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: hidden}\n";

    /// A folder of files that are loaded one edit after the other.
    struct Folder {
        folder: tempfile::TempDir,
        data: tempfile::TempDir,
        last_good: LastGood,
    }

    impl Folder {
        fn new() -> Folder {
            let data = tempfile::tempdir().unwrap();
            Folder { folder: tempfile::tempdir().unwrap(), last_good: LastGood::new(data.path()), data }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn restart(&mut self) {
            self.last_good = LastGood::new(self.data.path());
        }

        /// Names of the teams and of the Secrets, and reasons of the findings.
        fn load(&mut self) -> (Vec<String>, Vec<String>, Vec<Reason>) {
            let settings = settings();
            let before = Before { snapshot: None, last_good: &self.last_good };
            let source = Source::Path(self.folder.path().to_owned());
            let Loaded { snapshot, findings, kept, secrets, .. } = load(&source, &settings, Some(before)).unwrap();
            let named = secrets.iter().map(|(_, secret)| secret.meta.name.clone()).collect();
            self.last_good.keep(&kept, secrets).unwrap();
            let teams = snapshot.teams.iter().map(|team| team.name.to_string()).collect();
            (teams, named, findings.iter().map(|placed| placed.finding.reason).collect())
        }
    }

    fn settings() -> Settings<'static> {
        Settings {
            default_namespace: "default",
            variables: &|_| None,
            keys: None,
            mock: None,
            prices: *PriceTable::embedded(),
            now: 0,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_object_that_cannot_be_read_stays_and_one_that_is_removed_goes() {
        let mut folder = Folder::new();
        let other = TEAM.replace("squad", "other");
        folder.write("a.yaml", &format!("{TEAM}---\n{other}"));
        assert_eq!(folder.load(), (names(&["other", "squad"]), names(&[]), vec![]));
        folder.write("a.yaml", &TEAM.replace("[a]", "3"));
        for _ in 0..2 {
            let (teams, _, reasons) = folder.load();
            assert_eq!((teams, reasons), (names(&["squad"]), vec![Reason::LastGoodKept, Reason::Malformed]));
            folder.restart();
        }
        std::fs::remove_file(folder.folder.path().join("a.yaml")).unwrap();
        assert_eq!(folder.load(), (names(&[]), names(&[]), vec![]));
    }

    #[test]
    fn of_a_file_with_an_unknown_part_all_stay_but_secrets_only_until_a_restart() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &format!("{SECRET}---\n{TEAM}"));
        folder.write("b.yaml", &TEAM.replace("squad", "moved"));
        folder.load();
        folder.write("a.yaml", "kind: [unclosed\n  - {");
        folder.write("b.yaml", "");
        let (teams, secrets, reasons) = folder.load();
        assert_eq!((teams, secrets), (names(&["squad"]), names(&["s"])));
        assert!(reasons.contains(&Reason::Malformed) && reasons.contains(&Reason::LastGoodKept), "{reasons:?}");
        folder.restart();
        let (teams, secrets, _) = folder.load();
        assert_eq!((teams, secrets), (names(&["squad"]), names(&[])));
        let written = std::fs::read_to_string(folder.data.path().join("last-good.json")).unwrap();
        assert!(!written.contains("hidden"), "{written}");
    }

    #[test]
    fn what_a_litellm_file_stood_for_stays_when_it_breaks() {
        let mut folder = Folder::new();
        let good = "model_list:\n  - model_name: m\n    litellm_params: {model: openai/gpt-4o, api_key: sk-x}\n";
        folder.write("config.yaml", good);
        let settings = settings();
        let source = Source::Path(folder.folder.path().to_owned());
        let before = Before { snapshot: None, last_good: &folder.last_good };
        let first = load(&source, &settings, Some(before)).unwrap();
        assert_eq!(first.snapshot.deployments.len(), 1);
        folder.last_good.keep(&first.kept, first.secrets).unwrap();
        folder.write("config.yaml", &format!("{good}  - {{ [\n"));
        let before = Before { snapshot: None, last_good: &folder.last_good };
        let second = load(&source, &settings, Some(before)).unwrap();
        assert_eq!(second.snapshot.deployments, first.snapshot.deployments);
    }

    #[test]
    fn a_config_map_of_the_folder_holds_prices_and_a_broken_one_changes_none() {
        let mut folder = Folder::new();
        let table = |input: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: agreed}}\ndata:\n  prices: |\n    \
                 {{\"m\":\"gpt-4o\",\"p\":\"openai\",\"k\":\"chat\",\"r\":[\"in {input}\",\"out 0.00001\"]}}\n"
            )
        };
        folder.write(
            "a.yaml",
            "apiVersion: tollgate.dev/v1alpha1\nkind: LLMGateway\nmetadata: {name: main}\n\
             spec: {prices: {overlays: [{name: agreed, configMapRef: {name: agreed, key: prices}}]}}\n---\n\
             apiVersion: tollgate.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: four}\n\
             spec: {provider: openai, model: gpt-4o, credential: {secretRef: {name: s, key: key}}}\n",
        );
        folder.write("secret.yaml", SECRET);
        let mut served = None;
        let mut load_with = |folder: &mut Folder, text: &str| {
            folder.write("prices.yaml", text);
            let settings = settings();
            let before = Before { snapshot: served.as_ref(), last_good: &folder.last_good };
            let source = Source::Path(folder.folder.path().to_owned());
            let Loaded { snapshot, findings, kept, secrets, .. } = load(&source, &settings, Some(before)).unwrap();
            folder.last_good.keep(&kept, secrets).unwrap();
            let price = snapshot.deployments[0].price.as_ref().unwrap().input_rate().unwrap().to_per_million_text();
            served = Some(snapshot);
            (price, findings.iter().map(|placed| placed.finding.reason).collect::<Vec<_>>())
        };
        assert_eq!(load_with(&mut folder, &table("0.000002")), ("2".to_owned(), vec![]));
        assert_eq!(load_with(&mut folder, &table("0.000003")), ("3".to_owned(), vec![]));
        assert_eq!(load_with(&mut folder, &table("-1")), ("3".to_owned(), vec![Reason::Malformed]));
        assert_eq!(load_with(&mut folder, ""), ("3".to_owned(), vec![Reason::NotFound]));
        assert_eq!(load_with(&mut folder, &table("0.000001")), ("1".to_owned(), vec![]));
    }
}
