//! What conditions say, what is refused, and that neither ever takes long.

use std::collections::BTreeMap;

use cel::{Context, Program, Value};
use proptest::prelude::*;

use super::*;

/// What a call has, written down.
#[derive(Clone, Debug, Default)]
struct Written {
    texts: BTreeMap<&'static str, String>,
    headers: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    tags: Vec<Cow<'static, str>>,
}

impl Facts for Written {
    fn text(&self, field: Field) -> &str {
        let name = match field {
            Field::Model => "model",
            Field::EndUser => "endUser",
            Field::KeyName => "name",
            Field::KeyNamespace => "namespace",
            Field::Team => "team",
            Field::User => "user",
        };
        self.texts.get(name).map_or("", String::as_str)
    }

    fn entry(&self, table: Table, name: &str) -> Option<&str> {
        let entries = match table {
            Table::Headers => &self.headers,
            Table::Labels => &self.labels,
        };
        entries.get(name).map(String::as_str)
    }

    fn tags(&self) -> &[Cow<'_, str>] {
        &self.tags
    }
}

fn map(entries: [(&str, &str); 1]) -> BTreeMap<String, String> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn call() -> Written {
    Written {
        texts: BTreeMap::from([("model", "gpt-4o".to_owned()), ("name", "ci".to_owned())]),
        headers: map([("x-tier", "gold")]),
        labels: map([("env", "dev")]),
        tags: vec!["eu".into(), "batch".into()],
    }
}

const CONDITIONS: [(&str, bool); 40] = [
    ("'eu' in request.tags", true),
    ("'us' in request.tags", false),
    ("request.headers['x-tier'] == 'gold' && key.labels.env == 'dev'", true),
    ("request.headers[\"x-tier\"] != r'gold'", false),
    ("key.labels.missing == 'x'", false),
    ("key.labels.missing != 'x'", false),
    ("!(key.labels.missing == 'x')", false),
    ("key.labels.missing == 'x' || true", true),
    ("true || key.labels.missing == 'x'", true),
    ("!(key.labels.missing == 'x' && false)", true),
    ("!(false && key.labels.missing == 'x')", true),
    ("key.labels.missing == 'x' || false", false),
    ("has(key.labels.env)", true),
    ("has(key.labels.missing)", false),
    ("!has(key.labels.missing)", true),
    ("'env' in key.labels && !('x' in request.headers)", true),
    ("key.team == '' && key.user == ''", true),
    ("key.name in ['dev', 'ci',]", true),
    ("key.name in ['dev', key.labels.missing, 'ci']", false),
    ("size(request.tags) == 2", true),
    ("request.tags.size() > 1", true),
    ("size(request.model) >= 6 && size(key.name) < 3 && 2 <= 2", true),
    ("request.model.startsWith('gpt-') && request.model.endsWith('4o')", true),
    ("request.model.contains('-4') && !request.model.contains('5')", true),
    ("request.model < 'h' && request.model > 'g'", true),
    ("key.name == 'ci' ? 'eu' in request.tags : false", true),
    ("key.name == 'x' ? true : key.name == 'y' ? true : false", false),
    ("(key.name == 'ci' ? 'gold' : 'iron') == request.headers['x-tier']", true),
    ("key.labels.missing == 'x' ? true : true", false),
    ("(1 < 2) == true", true),
    ("-1 in [1, 2]", false),
    ("true in [false, true]", true),
    ("false || true && false", false),
    ("true || true && false", true),
    ("'a\\'\\n\\u00e9\\\\' == \"a'\\n\u{e9}\\\\\"", true),
    ("r'\\d' == '\\\\d'", true),
    ("// which\n  key.name == 'ci' // and no other\n", true),
    ("request.headers[key.name] == 'x'", false),
    ("request.headers.x == 'x'", false),
    ("request.endUser == key.labels['en' == 'x' ? 'y' : 'env']", false),
];

#[test]
fn conditions_see_the_request_and_the_key() {
    let call = call();
    for (text, expected) in CONDITIONS {
        let condition = Condition::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert_eq!(condition.judge(&call).holds, expected, "{text}");
    }
    assert!(!Condition::parse("!!false").unwrap().judge(&call).holds);
    assert!(Condition::parse("!!true").unwrap().judge(&call).holds);
}

/// The same by another implementation of CEL.
fn by_cel(text: &str, call: &Written) -> bool {
    let text_of = |field| Value::from(call.text(field));
    let table = |entries: &BTreeMap<String, String>| {
        Value::from(entries.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
    };
    let tags: Vec<String> = call.tags.iter().map(|tag| tag.to_string()).collect();
    let request = std::collections::HashMap::from([
        ("model", text_of(Field::Model)),
        ("endUser", text_of(Field::EndUser)),
        ("tags", Value::from(tags)),
        ("headers", table(&call.headers)),
    ]);
    let key = std::collections::HashMap::from([
        ("name", text_of(Field::KeyName)),
        ("namespace", text_of(Field::KeyNamespace)),
        ("team", text_of(Field::Team)),
        ("user", text_of(Field::User)),
        ("labels", table(&call.labels)),
    ]);
    let mut context = Context::default();
    context.add_variable_from_value("request", request);
    context.add_variable_from_value("key", key);
    let program = Program::compile(text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
    program.execute(&context) == Ok(Value::Bool(true))
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_its_place() {
    let long = format!("key.name == '{}'", "x".repeat(MAX_CHARACTERS));
    let parts = format!("[{}].all(e, true)", ["1"; 60].join(","));
    let brackets = format!("{}true{}", "(".repeat(500), ")".repeat(500));
    let lists = "[".repeat(500);
    let choices = format!("{}true", "true?true:".repeat(50));
    for (text, expected) in [
        ("this is (", "unknown name `this` at character 1; there are `request` and `key`"),
        ("request.tags ==", "a value is missing at character 16, where the end stands"),
        ("'eu' in request.tags)", "an operator or the end is missing at character 21, where `)` stands"),
        ("('eu' in request.tags", "`)` is missing at character 22, where the end stands"),
        ("", "a value is missing at character 1, where the end stands"),
        ("request.nosuch == ''", "`request` has no `nosuch`, at character 9; it has model, tags, headers and endUser"),
        ("key.labls.env == ''", "`key` has no `labls`, at character 5; it has name, namespace, team, user and labels"),
        ("request.model", "the condition is a text, not true or false"),
        ("request.headers", "the condition is `request.headers`, not true or false"),
        ("request.model == 4", "a text is compared with a number at character 15"),
        ("request.model + 'x' == 'y'", "`+` at character 15 means nothing in a condition"),
        ("1 + 1 == 2", "`+` at character 3 means nothing in a condition"),
        ("1 -1 == 0", "an operator or the end is missing at character 3, where `-1` stands"),
        ("1.5 > 1", "whole numbers only, and no arithmetic, at character 1"),
        ("99999999999999999999 > 1", "whole numbers only, and no arithmetic, at character 1"),
        ("key.user == null", "`null` at character 13 is nothing; what a call does not have is `''`"),
        (
            "request.tags.contains('eu')",
            "`contains` searches a text, not `request.tags`, at character 14; use `'a' in …` there",
        ),
        (
            "request.tags == ['eu']",
            "a comparison is of texts, numbers, true and false, not of `request.tags`, at character 1",
        ),
        ("request.tags[0] == 'eu'", "`[` takes from headers and labels, not from `request.tags`, at character 1"),
        (
            "request.tags.all(t, t == 'x')",
            "`all` at character 14 cannot be used: conditions have no loops; there are contains, startsWith, endsWith, size and has",
        ),
        (
            "request.model.matches('(a+)+')",
            "`matches` at character 15 cannot be used: conditions have no regular expressions; there are contains, startsWith, endsWith, size and has",
        ),
        ("Evil{}", "`{` at character 5 means nothing in a condition"),
        ("{1: 2}", "`{` at character 1 means nothing in a condition"),
        ("1 in ['a']", "`in` looks for a number where each is a text, at character 6"),
        ("'a' in 'abc'", "`in` needs a list, tags, headers or labels at character 8, not a text"),
        ("'a' in []", "the list at character 8 is empty"),
        ("'a' in ['b', 1]", "all of a list must be alike, at character 14"),
        ("has(request.endUser)", "each call has what `has` asks for at character 5; compare it with `''`"),
        ("key.name == 'a' == true", "put one of the comparisons in brackets, at character 17"),
        ("!key.name", "what stands behind `!` must be true or false, not a text, at character 1"),
        ("key.name || true", "what stands beside `||` must be true or false, not a text, at character 1"),
        ("true < false", "true and false have no order, at character 6"),
        ("key.name == 'a\nb'", "the text that begins at character 13 does not end on its line"),
        ("key.name == '\\q'", "unknown escape at character 14; a backslash itself is written twice"),
        ("key.name == '\\ud800'", "unknown escape at character 14; a backslash itself is written twice"),
        ("true ? 1 : 'a'", "both sides of `:` must be alike; at character 12 is a text, not a number"),
        (&long, "the condition is longer than 1024 characters"),
        (
            &parts,
            "`all` at character 123 cannot be used: conditions have no loops; there are contains, startsWith, endsWith, size and has",
        ),
        (&brackets, "brackets and choices nest deeper than 16 at character 17"),
        (&lists, "brackets and choices nest deeper than 16 at character 17"),
        (&choices, "brackets and choices nest deeper than 16 at character 156"),
    ] {
        assert_eq!(Condition::parse(text).map(|_| ()).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn what_a_call_has_too_much_of_is_as_good_as_missing() {
    let mut call = call();
    call.texts.insert("endUser", "u".repeat(MAX_TEXT_BYTES));
    call.tags = vec!["t".into(); MAX_TAGS];
    for text in ["request.endUser.contains('u')", "'t' in request.tags"] {
        let condition = Condition::parse(text).unwrap();
        assert!(condition.judge(&call).holds, "{text}");
        let mut more = call.clone();
        more.texts.insert("endUser", "u".repeat(MAX_TEXT_BYTES + 1));
        more.tags.push("t".into());
        assert!(!condition.judge(&more).holds, "{text}");
        more.tags = vec!["t".into(), "t".repeat(MAX_TAGS_BYTES).into()];
        assert!(!condition.judge(&more).holds, "{text}");
    }
}

/// Runs with the stack of a small thread.
fn with_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap();
    thread.join().unwrap();
}

#[test]
fn no_nesting_is_too_deep_for_a_small_stack() {
    with_small_stack(|| {
        let call = call();
        for (open, inner, close) in [
            ("(", "true", ")"),
            ("!(", "true", ")"),
            ("[", "1", "]"),
            ("true in [", "true", "]"),
            ("size(", "key.name", ")"),
            ("has(", "key.name", ")"),
            ("request.headers[", "key.name", "]"),
            ("'a'.contains(", "'b'", ")"),
            ("true ? ", "true", " : true"),
            ("true ? true : ", "true", ""),
            ("true && (true || ", "true", ")"),
            ("!", "true", ""),
            ("true && ", "true", ""),
            ("true || ", "true", ""),
            ("true == ", "true", ""),
            ("-", "1", ""),
            ("", "key.name", ".contains('x')"),
            ("", "key", ".labels"),
            ("", "request", ".headers['x']"),
        ] {
            for depth in (0..MAX_DEPTH + 4).chain([100, 1000, 100_000]) {
                let text = format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
                let condition = Condition::parse(&text);
                if let Ok(condition) = condition {
                    assert!(condition.judge(&call).steps <= MAX_STEPS);
                }
            }
        }
    });
}

/// Pieces that conditions are made of, put together without sense.
fn soup() -> impl Strategy<Value = String> {
    let words = [
        "request",
        "key",
        ".",
        "tags",
        "headers",
        "model",
        "endUser",
        "labels",
        "name",
        "team",
        "in",
        "'a'",
        "''",
        "'",
        "\"",
        "\\",
        "[",
        "]",
        "(",
        ")",
        "==",
        "!=",
        "<",
        ">=",
        "&&",
        "||",
        "!",
        "?",
        ":",
        ",",
        "1",
        "-",
        "true",
        "false",
        "has",
        "size",
        "contains",
        "startsWith",
        "all",
        "{",
        "}",
        "//",
        "\n",
        " ",
        "é",
        "\u{0}",
        "request.tags",
        "key.name",
        "request.headers",
        "key.labels.env",
        "size(request.tags)",
        "'a' in request.tags",
    ];
    prop_oneof![
        proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..60).prop_map(|words| words.concat()),
        ".{0,80}",
    ]
}

fn text_part() -> impl Strategy<Value = String> {
    let words = [
        "'a'",
        "'gold'",
        "''",
        "key.name",
        "request.model",
        "request.endUser",
        "key.labels.env",
        "key.labels.none",
        "request.headers['x-tier']",
        "request.headers.none",
    ];
    proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
}

/// Conditions that make sense.
fn sensible() -> impl Strategy<Value = String> {
    let order = proptest::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let search = proptest::sample::select(vec!["contains", "startsWith", "endsWith"]);
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        (text_part(), order.clone(), text_part()).prop_map(|(a, order, b)| format!("{a} {order} {b}")),
        (text_part(), search, text_part()).prop_map(|(a, search, b)| format!("{a}.{search}({b})")),
        text_part().prop_map(|a| format!("{a} in request.tags")),
        text_part().prop_map(|a| format!("{a} in request.headers")),
        (text_part(), proptest::collection::vec(text_part(), 1..4))
            .prop_map(|(a, list)| format!("{a} in [{}]", list.join(", "))),
        (text_part(), order, 0u8..4).prop_map(|(a, order, n)| format!("size({a}) {order} {n}")),
        Just("has(key.labels.env)".to_owned()),
        Just("has(request.headers.none)".to_owned()),
        (0u8..4).prop_map(|n| format!("request.tags.size() == {n}")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" && "))),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" || "))),
            inner.clone().prop_map(|part| format!("!({part})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

/// All that a client may say is as long as it may be, and alike, so that comparing takes the longest.
fn longest(tag: usize) -> Written {
    let long = "a".repeat(MAX_TEXT_BYTES);
    let names = ["model", "endUser", "name", "namespace", "team", "user"];
    Written {
        texts: names.into_iter().map(|name| (name, long.clone())).collect(),
        headers: map([("x-tier", &long)]),
        labels: map([("env", &long)]),
        tags: vec!["a".repeat(tag).into(); MAX_TAGS_BYTES / tag.max(1).max(MAX_TAGS_BYTES / MAX_TAGS)],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn any_text_is_refused_in_one_line_or_judged_in_bounded_steps(
        text in prop_oneof![soup(), sensible()],
        times in 1usize..40,
        link in proptest::sample::select(vec!["&&", "||", "==", ".", ",", "(", "?"]),
    ) {
        for text in [vec![&*text; times].join(link), text] {
            match Condition::parse(&text) {
                Ok(condition) => for call in [call(), longest(32), longest(MAX_TEXT_BYTES)] {
                    prop_assert!(condition.judge(&call).steps <= MAX_STEPS);
                },
                Err(fault) => {
                    let fault = fault.to_string();
                    prop_assert!(fault.len() < 256 && !fault.chars().any(char::is_control), "{fault}");
                }
            }
        }
    }

    #[test]
    fn what_is_read_here_means_what_it_means_in_cel(text in sensible()) {
        prop_assume!(text.len() <= MAX_CHARACTERS);
        let call = call();
        match Condition::parse(&text) {
            Ok(condition) => prop_assert_eq!(condition.judge(&call).holds, by_cel(&text, &call), "{}", text),
            Err(fault) => prop_assert!(fault.to_string().contains("nest deeper"), "{}: {}", text, fault),
        }
    }
}

#[test]
fn the_costliest_conditions_stay_within_the_bound() {
    for part in ["''in request.tags", "size(key.name)>1", "key.user==key.name", "key.user.contains('')"] {
        let times = (MAX_CHARACTERS + 2) / (part.len() + 2);
        // Nothing decides before the end.
        let text = vec![part; times].join(if part.starts_with('\'') { "||" } else { "&&" });
        let condition = Condition::parse(&text).unwrap();
        let steps = [longest(32), longest(MAX_TEXT_BYTES)].map(|call| condition.judge(&call).steps);
        assert!(steps.iter().all(|steps| *steps <= MAX_STEPS), "{part}: {steps:?}");
        assert!(steps.iter().any(|steps| *steps > MAX_STEPS / 8), "{part}: {steps:?}, the bound is too wide");
    }
}

#[test]
fn the_table_of_conditions_means_the_same_in_cel() {
    let call = call();
    for (text, expected) in CONDITIONS {
        assert_eq!(by_cel(text, &call), expected, "{text}");
    }
}
