//! Where in a file a field is, for findings. Only asked when there is something to say, so it may read the text again.

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData};

/// Line and column (from 1) of the field at `path` (`spec.targets[1].weight`) in a document; of the deepest part of the
/// path that exists. `None` when the text is not YAML.
pub fn locate(text: &str, path: &str) -> Option<(usize, usize)> {
    let documents = MarkedYaml::load_from_str(text).ok()?;
    let mut node = documents.first()?;
    let mut place = start(node);
    for step in steps(path) {
        let found = match (&node.data, &step) {
            (YamlData::Mapping(mapping), Step::Key(wanted)) => mapping
                .iter()
                .find(|(key, _)| key.data.as_str() == Some(wanted))
                .map(|(key, value)| (start(key), value)),
            (YamlData::Sequence(items), Step::Index(index)) => items.get(*index).map(|item| (start(item), item)),
            _ => None,
        };
        let Some((found_place, child)) = found else { break };
        place = found_place;
        node = child;
    }
    Some(place)
}

fn start(node: &MarkedYaml<'_>) -> (usize, usize) {
    (node.span.start.line(), node.span.start.col() + 1)
}

#[derive(Debug, PartialEq)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `a.b[1].c` and serde's `a.b.1.c` alike.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indices) = part.split_once('[').unwrap_or((part, ""));
        match name.parse() {
            Ok(index) => steps.push(Step::Index(index)),
            Err(_) if !name.is_empty() => steps.push(Step::Key(name)),
            Err(_) => {}
        }
        for index in indices.split('[').filter_map(|index| index.trim_end_matches(']').parse().ok()) {
            steps.push(Step::Index(index));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_where_it_stands() {
        let text = "kind: RouteGroup\nspec:\n  targets:\n    - {name: a}\n    - name: b\n      weight: 0\n";
        for (path, place) in [
            ("spec.targets[1].weight", (6, 7)),
            ("spec.targets.1.weight", (6, 7)),
            ("spec.targets[0].name", (4, 8)),
            ("spec.missing.deeper", (2, 1)),
            ("", (1, 1)),
        ] {
            assert_eq!(locate(text, path), Some(place), "{path}");
        }
        assert_eq!(locate("{", "a"), None);
    }
}
