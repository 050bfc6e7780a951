//! The reference of all fields, as Markdown, made from the schemas that the API server checks. One table for each kind;
//! a field is named by its whole path, so that a search finds it.

use std::fmt::Write;

use serde_json::Value;

const HEAD: &str = "\
# Resources

Every field of every kind, made from the schemas by `tollgate crds --docs`; do not edit it by hand. `kubectl explain`
shows the same texts. In paths `[]` is an entry of a list and `{}` a value of a map.
";

/// The whole page.
///
/// # Errors
/// A definition has no JSON form.
pub fn markdown() -> serde_json::Result<String> {
    let mut page = HEAD.to_owned();
    let definitions =
        tollgate_crds::all_crds().iter().map(serde_json::to_value).collect::<serde_json::Result<Vec<Value>>>()?;
    page.push('\n');
    for definition in &definitions {
        let name = text(&definition["spec"]["names"]["kind"]);
        let anchor = name.to_lowercase();
        let _ = writeln!(page, "- [{name}](#{anchor})");
    }
    for definition in &definitions {
        kind(&mut page, definition);
    }
    Ok(page)
}

fn kind(page: &mut String, definition: &Value) {
    let names = &definition["spec"]["names"];
    let group = text(&definition["spec"]["group"]);
    for version in list(&definition["spec"]["versions"]) {
        let schema = &version["schema"]["openAPIV3Schema"];
        let short: Vec<String> = list(&names["shortNames"]).iter().map(|name| format!("`{}`", text(name))).collect();
        let _ = writeln!(
            page,
            "\n## {}\n\n{}\n\n`apiVersion: {group}/{}`, `kubectl get {}.{group}`, short {}.",
            text(&names["kind"]),
            line(text(&schema["description"])),
            text(&version["name"]),
            text(&names["plural"]),
            short.join(", "),
        );
        columns(page, list(&version["additionalPrinterColumns"]));
        for part in ["spec", "status"] {
            let _ =
                writeln!(page, "\n### {} {part}\n\n| field | type | what |\n| --- | --- | --- |", text(&names["kind"]));
            for rule in rules(&schema["properties"][part]) {
                let _ = writeln!(page, "| `{part}` | object | Rule: {rule}. |");
            }
            fields(page, part, &schema["properties"][part]);
        }
    }
}

fn columns(page: &mut String, columns: &[Value]) {
    let _ = writeln!(page, "\n| column | what |\n| --- | --- |");
    for column in columns {
        let wide = if column["priority"].as_i64().unwrap_or(0) > 0 { " (`-o wide`)" } else { "" };
        let _ = writeln!(page, "| {}{wide} | {} |", text(&column["name"]), cell(text(&column["description"])));
    }
}

/// Rows for what is inside of a schema, each with its path.
fn fields(page: &mut String, path: &str, schema: &Value) {
    let required = list(&schema["required"]);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let must = if required.iter().any(|one| one == name) { ", required" } else { "" };
        let mut what = cell(text(&property["description"]));
        let (path_inside, inside) = innermost(&path, property);
        for rule in rules(property).chain(rules(inside).filter(|_| !std::ptr::eq(inside, property))) {
            let _ = write!(what, " Rule: {rule}.");
        }
        let _ = writeln!(page, "| `{path}` | {}{must} | {what} |", cell(&type_of(property)));
        fields(page, &path_inside, inside);
    }
}

/// The schema of the entries of lists and maps, however deep, with the path to it.
fn innermost<'a>(path: &str, schema: &'a Value) -> (String, &'a Value) {
    if schema["items"].is_object() {
        return innermost(&format!("{path}[]"), &schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        return innermost(&format!("{path}{{}}"), &schema["additionalProperties"]);
    }
    (path.to_owned(), schema)
}

/// Messages of the rules on a schema.
fn rules(schema: &Value) -> impl Iterator<Item = String> {
    list(&schema["x-kubernetes-validations"]).iter().map(|rule| cell(text(&rule["message"])))
}

/// Type and bounds in words. Example: `list of string, at most 16`.
fn type_of(schema: &Value) -> String {
    let bounds = |least: &str, most: &str| match (schema[least].as_number(), schema[most].as_number()) {
        (Some(least), Some(most)) => format!(", {} to {}", whole(least), whole(most)),
        (Some(least), None) => format!(", at least {}", whole(least)),
        (None, Some(most)) => format!(", at most {}", whole(most)),
        (None, None) => String::new(),
    };
    match text(&schema["type"]) {
        "array" => format!("list of {}{}", type_of(&schema["items"]), bounds("minItems", "maxItems")),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map of {}{}", type_of(&schema["additionalProperties"]), bounds("minProperties", "maxProperties"))
        }
        "object" if schema["x-kubernetes-preserve-unknown-fields"] == true => "object of any fields".to_owned(),
        "integer" => format!("integer{}", bounds("minimum", "maximum")),
        "string" if schema["enum"].is_array() => {
            list(&schema["enum"]).iter().map(|value| format!("`{}`", text(value))).collect::<Vec<_>>().join(" | ")
        }
        other => other.to_owned(),
    }
}

/// A number without the `.0` that schemas write.
fn whole(number: &serde_json::Number) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// One line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A cell of a table: one line, in which `|` ends no cell and `<` begins no element.
fn cell(text: &str) -> String {
    line(text).replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_row_with_a_text() {
        let page = markdown().expect("definitions have a JSON form");
        for row in [
            "| `spec.listeners[].tls.certificateRef.name` |",
            "| `spec.budget.period.calendar` |",
            "| `status.conditions[].type` |",
            "| `spec.modelAliases` | map of string",
        ] {
            assert!(page.contains(row), "no row {row}");
        }
        for row in page.lines().filter(|row| row.starts_with("| `")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            assert!(cells.len() >= 3 && cells.last().is_some_and(|what| what.len() > 4), "no text: {row}");
        }
    }

    #[test]
    fn bars_and_angles_break_no_table() {
        assert_eq!(cell("a |\n  b <c>"), "a \\| b &lt;c>");
    }
}
