//! What an account and a deployment have in common: a provider of the catalogue, an address, headers.

use tollgate_crds::{Endpoint as EndpointSpec, Header};

use super::endpoint;
use super::input::Input;
use super::report::{Report, Subject};
use crate::catalogue::{self, Provider};
use crate::finding::Reason;
use crate::model::{Endpoint, Name, Surface};

/// Most edits between what is written and what a hint proposes.
const FARTHEST_GUESS: usize = 3;

/// Headers that belong to the connection or to the credential; no resource sets them.
const RESERVED_HEADERS: [&str; 10] = [
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
];

/// A row of the catalogue; a finding with a guess where there is none of that name.
pub(super) fn find(id: &str, field: &str, subject: Subject<'_>, report: &mut Report) -> Option<&'static Provider> {
    let found = catalogue::find(id);
    if found.is_none() {
        let finding = report.error(subject, Reason::UnknownProvider, field, format!("no provider is called `{id}`"));
        finding.hint = match closest(id) {
            Some(known) => format!("did you mean `{known}`? For any other server with OpenAI's API: openai-compatible"),
            None => "for a server with OpenAI's API: openai-compatible, and its address in endpoint.baseURL".to_owned(),
        };
    }
    found
}

/// The address where a provider is called unless a resource says otherwise.
pub(super) fn usual_endpoint(provider: &Provider, input: &Input<'_>) -> Option<Endpoint> {
    match provider.base_url {
        Some(url) => endpoint::parse(url).ok(),
        None if provider.id == "mock" => input.mock_endpoint.clone(),
        None => None,
    }
}

/// What stands before the operation's path where only host and port are known.
pub(super) fn usual_path(provider: &Provider) -> Name {
    match (provider.base_url.map(endpoint::parse), provider.surface) {
        (Some(Ok(endpoint)), _) => endpoint.path,
        (_, Surface::OpenAi) => "/v1".into(),
        (_, Surface::Azure | Surface::Anthropic) => "".into(),
    }
}

/// What an `endpoint` says.
#[derive(Clone, Debug, Default)]
pub(super) struct Stated {
    pub endpoint: Option<Endpoint>,
    pub api_version: Option<Name>,
    pub headers: Vec<(Name, Name)>,
}

/// `None`: it says something that cannot be used.
pub(super) fn stated(spec: Option<&EndpointSpec>, subject: Subject<'_>, report: &mut Report) -> Option<Stated> {
    let Some(EndpointSpec { base_url, api_version, headers }) = spec else { return Some(Stated::default()) };
    let mut usable = true;
    let endpoint = base_url.as_deref().and_then(|url| match endpoint::parse(url) {
        Ok(endpoint) => Some(endpoint),
        Err(message) => {
            usable = false;
            report.error(subject, Reason::InvalidValue, "spec.endpoint.baseURL", message);
            None
        }
    });
    for (at, header) in headers.iter().enumerate() {
        if let Err(message) = check_header(header) {
            usable = false;
            report.error(subject, Reason::InvalidValue, format!("spec.endpoint.headers[{at}]"), message);
        }
    }
    let version_is_plain =
        |version: &&str| version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let api_version = match api_version.as_deref() {
        Some(version) if !version_is_plain(&version) => {
            usable = false;
            let message = format!("`{version}` is not a version; write it as in 2025-04-01-preview");
            report.error(subject, Reason::InvalidValue, "spec.endpoint.apiVersion", message);
            None
        }
        version => version.map(Name::from),
    };
    let headers = headers.iter().map(|header| (header.name.to_ascii_lowercase().into(), header.value.as_str().into()));
    usable.then(|| Stated { endpoint, api_version, headers: headers.collect() })
}

fn check_header(header: &Header) -> Result<(), String> {
    let Header { name, value } = header;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("`{name}` is not the name of a header"));
    }
    if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("header `{name}` cannot be set here"));
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t') {
        return Err(format!("the value of header `{name}` has characters that no header can carry"));
    }
    Ok(())
}

fn closest(id: &str) -> Option<&'static str> {
    let plain = id.to_ascii_lowercase().replace([' ', '-'], "_");
    let best = catalogue::known_ids().map(|known| (distance(&plain, &known.replace('-', "_")), known)).min()?;
    (best.0 <= FARTHEST_GUESS.min(plain.len() / 2)).then_some(best.1)
}

/// How many characters must be added, removed or replaced.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised() {
        for (written, meant) in [
            ("opena", Some("openai")),
            ("OpenAI", Some("openai")),
            ("antropic", Some("anthropic")),
            ("together-ai", Some("together_ai")),
            ("something-else-entirely", None),
            ("x", None),
        ] {
            assert_eq!(closest(written), meant, "{written}");
        }
    }

    #[test]
    fn headers_of_the_connection_are_not_for_resources() {
        let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
        assert_eq!(check_header(&header("OpenAI-Organization", "org-1")), Ok(()));
        for bad in [
            header("Host", "a"),
            header("Authorization", "Bearer x"),
            header("a b", ""),
            header("", ""),
            header("a", "\r\nb: c"),
        ] {
            assert!(check_header(&bad).is_err(), "{bad:?}");
        }
    }
}
