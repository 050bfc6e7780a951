//! Where a deployment is called and with which key: `api_key`, `api_base`, `api_version`, named credentials, and what
//! LiteLLM takes from the environment where the file says nothing.

use std::collections::BTreeMap;

use tollgate_crds::{Endpoint, Header, SecretSource};
use tollgate_snapshot::catalogue::Provider;

use crate::block::{Block, Item};
use crate::context::Context;
use crate::environment::{Resolved, variable_name};
use crate::node::Node;
use crate::provider::Upstream;
use crate::secret::Secrets;

/// `credential_list`, by name.
#[derive(Debug, Default)]
pub struct NamedCredentials(BTreeMap<String, Named>);

#[derive(Debug)]
struct Named {
    path: String,
    values: Vec<(String, Item)>,
    is_used: bool,
}

/// Where calls of a deployment go.
#[derive(Debug, Default)]
pub struct Access {
    pub api_key: Option<Item>,
    pub api_base: Option<Item>,
    pub api_version: Option<Item>,
    pub organization: Option<Item>,
    pub headers: Option<Item>,
}

impl NamedCredentials {
    pub fn read(list: Option<Item>, context: &mut Context<'_>) -> NamedCredentials {
        let mut named = BTreeMap::new();
        for item in list.map(Item::each).unwrap_or_default() {
            let path = item.path.clone();
            let mut block = Block::open(item, context);
            let name = block.take("credential_name").and_then(|item| context.text(&item));
            let values = block.take_block("credential_values", context).rest().collect();
            if let Some(info) = block.take("credential_info") {
                context.unsupported(&info.path, "describes the credential to people and is not kept", "");
            }
            for (_, item) in block.rest() {
                context.unsupported(&item.path, "is not known here", "");
            }
            match name {
                Some(name) => drop(named.insert(name, Named { path, values, is_used: false })),
                None => context.notes.error(path, "the credential has no credential_name", ""),
            }
        }
        NamedCredentials(named)
    }

    /// Notes those that no deployment names.
    pub fn finish(self, context: &mut Context<'_>) {
        for Named { path, .. } in self.0.into_values().filter(|named| !named.is_used) {
            context.notes.warn(path, "no deployment names this credential; it is left out", "");
        }
    }
}

impl Access {
    /// Takes what `litellm_params` says, then what the named credential adds.
    pub fn take(params: &mut Block, named: &mut NamedCredentials, context: &mut Context<'_>) -> Access {
        let mut access = Access {
            api_key: params.take("api_key"),
            api_base: params.take_any(&["api_base", "base_url"]),
            api_version: params.take("api_version"),
            organization: params.take("organization"),
            headers: params.take_any(&["extra_headers", "headers"]),
        };
        let Some(item) = params.take("litellm_credential_name") else { return access };
        let Some(name) = context.text(&item) else { return access };
        let Some(credential) = named.0.get_mut(&name) else {
            context.notes.error(item.path, format!("`credential_list` has no credential `{name}`"), "");
            return access;
        };
        credential.is_used = true;
        for (key, item) in &credential.values {
            let slot = match key.as_str() {
                "api_key" => &mut access.api_key,
                "api_base" | "base_url" => &mut access.api_base,
                "api_version" => &mut access.api_version,
                "organization" => &mut access.organization,
                _ => {
                    context.unsupported(&item.path, "is not read from a credential", "");
                    continue;
                }
            };
            slot.get_or_insert_with(|| item.clone());
        }
        access
    }

    /// Notes what the mock does not need.
    pub fn ignore(self, context: &mut Context<'_>) {
        let Access { api_key, api_base, api_version, organization, headers } = self;
        for item in [api_key, api_base, api_version, organization, headers].into_iter().flatten() {
            context.unsupported(&item.path, "is not used: `mock_response` is answered without a provider", "");
        }
    }

    /// The endpoint, where it differs from the provider's own, and the credential. `path`: of the deployment's params.
    pub fn resolve(
        self,
        upstream: &Upstream,
        path: &str,
        secrets: &mut Secrets,
        context: &mut Context<'_>,
    ) -> (Option<Endpoint>, Option<SecretSource>) {
        let Access { api_key, api_base, api_version, organization, headers } = self;
        let mut endpoint = Endpoint {
            base_url: api_base.and_then(|item| context.text(&item)).filter(|url| !url.is_empty()),
            api_version: api_version.and_then(|item| context.text(&item)),
            headers: Vec::new(),
        };
        if endpoint.base_url.is_none()
            && let Some(row) = upstream.row
            && let Some((_, Resolved::Text(url))) = context.environment.first_of(&row.base_env)
        {
            endpoint.base_url = Some(url);
        }
        if let Some(url) = &mut endpoint.base_url {
            url.truncate(url.trim_end_matches('/').len());
        }
        if let Some(value) = organization.and_then(|item| context.text(&item)) {
            endpoint.headers.push(Header { name: "OpenAI-Organization".to_owned(), value });
        }
        if let Some(item) = headers {
            for (name, item) in Block::open(item, context).rest() {
                if let Some(value) = context.text(&item) {
                    endpoint.headers.push(Header { name, value });
                }
            }
        }
        let credential = credential(api_key, upstream, endpoint.base_url.as_deref(), path, secrets, context);
        let endpoint = (endpoint != Endpoint::default()).then_some(endpoint);
        (endpoint, credential)
    }
}

fn credential(
    api_key: Option<Item>,
    upstream: &Upstream,
    base_url: Option<&str>,
    path: &str,
    secrets: &mut Secrets,
    context: &mut Context<'_>,
) -> Option<SecretSource> {
    let own_host = upstream.row.and_then(Provider::host);
    let other_host = base_url.and_then(host).filter(|host| Some(host.as_str()) != own_host);
    let purpose = format!("{}-api-key", upstream.provider);
    if let Some(item) = api_key {
        let value = context.secret(&item)?;
        if value == Resolved::Text(String::new()) {
            context.notes.warn(item.path, "the key is empty; calls go out without one", "");
            return None;
        }
        let variable = match &item.node {
            Node::Text(text) => variable_name(text),
            _ => None,
        };
        if variable.is_none() && context.environment.is_known_later() {
            context.notes.warn(
                &item.path,
                "the key stands in the file, and now in a Secret of the output",
                "keep the output out of version control, or write os.environ/NAME first",
            );
        }
        return Some(secrets.refer(variable, &purpose, "api-key", value, other_host));
    }
    let row = upstream.row?;
    if row.key_env.is_empty() || (row.credential_is_optional && context.environment.is_known_later()) {
        return None;
    }
    let place = format!("{path}.api_key");
    if let Some(host) = &other_host
        && own_host.is_some()
    {
        if !row.credential_is_optional {
            let message = format!("no key is sent to `{host}`: LiteLLM would send it the key of {}", row.name);
            context.notes.warn(
                place,
                message,
                format!("if that is wanted write api_key: os.environ/{}", row.key_env[0]),
            );
        }
        return None;
    }
    let found = context.environment.first_of(&row.key_env);
    let is_set = matches!(found, Some((_, Resolved::Text(_))));
    if !is_set && !context.environment.is_known_later() {
        if row.credential_is_optional {
            return None;
        }
        let message =
            format!("there is no key for {}: no api_key, and {} is not set", row.name, row.key_env.join(" or "));
        context.notes.warn(place, message, format!("set {}", row.key_env[0]));
    }
    let (variable, value) = found?;
    Some(secrets.refer(Some(&variable), &purpose, "api-key", value, other_host))
}

/// The host of a URL, without port.
fn host(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_addresses() {
        for (url, expected) in [
            ("https://Example.openai.azure.com/", Some("example.openai.azure.com")),
            ("http://10.0.0.7:8000/v1", Some("10.0.0.7")),
            ("http://[::1]:8000/v1", Some("::1")),
            ("https://user@host?x", Some("host")),
            ("${AZURE_API_BASE}", None),
            ("https://", None),
        ] {
            assert_eq!(host(url).as_deref(), expected, "{url}");
        }
    }
}
