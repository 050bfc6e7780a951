//! Tells a LiteLLM configuration from a file of our own resources, by a look at the beginnings of lines.

/// Keys that stand at the left edge of a LiteLLM file and of nothing else.
const KEYS: [&str; 6] = [
    "model_list",
    "litellm_settings",
    "router_settings",
    "general_settings",
    "environment_variables",
    "credential_list",
];

/// Whether the text is a LiteLLM configuration. Reads lines until the first that decides; does not parse.
pub fn is_litellm(text: &str) -> bool {
    for line in text.lines() {
        // Only the left edge counts; comments, lists and what is indented cannot decide.
        if !line.starts_with(|first: char| first.is_ascii_alphabetic() || first == '"' || first == '\'' || first == '{')
        {
            continue;
        }
        if let Some(rest) = line.strip_prefix('{') {
            return !rest.contains("apiVersion") && KEYS.iter().any(|key| rest.contains(key));
        }
        let Some((key, _)) = line.split_once(':') else { continue };
        let key = key.trim_end().trim_matches(['"', '\'']);
        if key == "apiVersion" {
            return false;
        }
        if KEYS.contains(&key) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_litellm_file_is_known_by_its_top_level_keys() {
        for (text, expected) in [
            ("model_list:\n- model_name: a\n", true),
            ("# comment\n\n\"model_list\": []\n", true),
            ("model_list : []\n", true),
            ("guardrails: []\nrouter_settings:\n  num_retries: 1\n", true),
            ("general_settings: {master_key: x}\n", true),
            ("{\"model_list\": []}", true),
            ("apiVersion: tollgate.dev/v1alpha1\nkind: Team\nmodel_list: []\n", false),
            ("kind: Team\nmetadata: {}\nspec:\n  model_list: []\n", false),
            ("{apiVersion: v1, model_list: []}", false),
            ("", false),
            ("- model_list:\n", false),
            ("  model_list:\n", false),
            ("model_list\n", false),
            ("my_model_list: 1\n", false),
        ] {
            assert_eq!(is_litellm(text), expected, "{text}");
        }
    }
}
