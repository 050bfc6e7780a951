//! Every reason that users can see is in the table of `docs/kubernetes/conditions.md`, and nothing else is. Reasons are
//! read from the sources: variants of enums called `Reason`, and texts that are handed over as a reason.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/kubernetes/conditions.md");

/// Where reasons are written.
const SOURCES: [&str; 3] = ["snapshot/src/finding.rs", "operator/src", "dataplane/src/probe.rs"];

#[test]
fn every_reason_is_documented_and_every_documented_reason_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace");
    let sources = SOURCES.iter().flat_map(|source| files(&root.join(source)));
    let texts = sources.map(|file| std::fs::read_to_string(file).expect("sources can be read"));
    let in_code = reasons(&texts.collect::<Vec<_>>());
    assert!(in_code.len() > 40, "reasons are found where they are: {in_code:?}");
    let documented = documented();
    let missing: Vec<&String> = in_code.difference(&documented).collect();
    let gone: Vec<&String> = documented.difference(&in_code).collect();
    assert!(missing.is_empty(), "docs/kubernetes/conditions.md does not explain {missing:?}");
    assert!(gone.is_empty(), "docs/kubernetes/conditions.md explains what no code says: {gone:?}");
}

/// First column of the table under `Reasons`.
fn documented() -> BTreeSet<String> {
    let (_, table) = PAGE.split_once("## Reasons").expect("the page has such a part");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let names: Vec<String> = rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect();
    let unique: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(unique.len(), names.len(), "each reason has one row");
    unique
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).expect("sources are where they are");
    let paths = entries.map(|entry| entry.expect("entries can be read").path());
    paths
        .filter(|path| path.is_dir() || path.extension().is_some_and(|end| end == "rs"))
        .flat_map(|path| files(&path))
        .collect()
}

/// All reasons of sources, but for those of their tests.
fn reasons(sources: &[String]) -> BTreeSet<String> {
    let without_tests = |text: &String| text.split("#[cfg(test)]\nmod tests {").next().map(str::to_owned);
    let text = sources.iter().filter_map(without_tests).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for block in text.split("pub enum Reason {").skip(1) {
        let block = block.split("\n}").next().unwrap_or_default();
        found.extend(block.lines().map(|line| line.trim().trim_end_matches(',').to_owned()));
    }
    // `reason: X`, `holds(TYPE, X, ..)`, `new(TYPE, STATUS, X, ..)`, where X is a text or the name of one.
    let given = [
        r#"reason:\s*("\w+"|[A-Z_]+\b)"#,
        r#"(?:fails|holds|unknown)\(\s*[A-Z_]+,\s*("\w+"|[A-Z_]+)"#,
        r#"\bnew\(\s*[A-Z_]+,\s*[\w:]+,\s*("\w+"|[A-Z_]+)"#,
    ];
    for expression in given {
        for name in captured(expression, &text) {
            match name.strip_prefix('"') {
                Some(literal) => drop(found.insert(literal.trim_end_matches('"').to_owned())),
                None => found.extend(captured(&format!(r#"const {name}: &str = "(\w+)""#), &text)),
            }
        }
    }
    for function in text.split("fn reason(").skip(1) {
        let body = function.split("\n    }").next().unwrap_or_default();
        found.extend(captured(r#"=>\s*"(\w+)""#, body));
    }
    found.retain(|name| is_reason(name));
    found
}

fn captured(expression: &str, text: &str) -> Vec<String> {
    let expression = regex::Regex::new(expression).expect("it is an expression");
    expression.captures_iter(text).map(|captures| captures[1].to_owned()).collect()
}

fn is_reason(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase()) && text.chars().all(|each| each.is_ascii_alphanumeric())
}

#[test]
fn reasons_are_found_in_all_the_ways_that_they_are_written() {
    let text = r#"
        const READY: &str = "Ready";
        pub enum Reason {
            /// One.
            One,
            Two,
        }
        Problem { reason: "Three", message }
        const INVALID: &str = "Invalid";
        Problem { reason: INVALID, message }
        Statement::fails(PROGRAMMED, "Four", message)
        Statement::new(READY, ConditionStatus::False, "Five", message)
        Statement::holds(READY, READY, message)
    fn reason(self) -> &'static str {
        match self {
            A => "Six",
        }
    }
    fn other(self) { B => "Seven" }
#[cfg(test)]
mod tests {
    Problem { reason: "Eight", message }
"#;
    let found: Vec<String> = reasons(&[text.to_owned()]).into_iter().collect();
    assert_eq!(found, ["Five", "Four", "Invalid", "One", "Ready", "Six", "Three", "Two"]);
}
