//! Secrets that cannot be read just now, by an operator that began a moment ago: what is published of them goes on, to the
//! hosts that it was published for and to no others. So an API server in trouble takes no deployment away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tollgate_snapshot::compile::{Meta, Secret, Secrets, Unread};
use tollgate_snapshot::{Credential, Snapshot};

/// The annotation that names hosts a Secret may be sent to.
const HOSTS: &str = "tollgate.dev/hosts";

/// Puts what `credentials` hold of Secrets that could not be read among those that could. `previous` and `credentials` are
/// what is published.
pub fn fill(secrets: &mut Secrets, previous: &Snapshot, credentials: &[Credential]) {
    let mut found: BTreeMap<(&str, &str), BTreeMap<String, Arc<str>>> = BTreeMap::new();
    for Credential { id, value } in credentials {
        let mut parts = id.splitn(3, '/');
        let (Some(namespace), Some(name), Some(key)) = (parts.next(), parts.next(), parts.next()) else { continue };
        if let Some(Unread::Failed(_)) = secrets.unread(namespace, name) {
            found.entry((namespace, name)).or_default().insert(key.to_owned(), value.clone());
        }
    }
    for ((namespace, name), data) in found {
        let start = format!("{namespace}/{name}/");
        let users = previous
            .deployments
            .iter()
            .filter(|deployment| deployment.credentials.iter().any(|credential| credential.id.starts_with(&start)));
        let hosts: BTreeSet<&str> = users.map(|deployment| &*deployment.endpoint.host).collect();
        let hosts: Vec<&str> = hosts.into_iter().collect();
        let annotations = [(HOSTS.to_owned(), hosts.join(","))].into();
        secrets.insert(Secret { meta: Meta { annotations, ..Meta::new(namespace, name) }, data });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tollgate_snapshot::compile::{self, Document, Input, KeyHashes, Mode, Object};

    use super::*;

    fn secret(data: &str) -> Secret {
        let annotations = [(HOSTS.to_owned(), "one.example.com".to_owned())].into();
        Secret { meta: Meta { annotations, ..Meta::new("n", "s") }, data: [("key".to_owned(), data.into())].into() }
    }

    fn deployment(host: &str) -> Document {
        let spec = json!({
            "provider": "openai-compatible",
            "endpoint": {"baseURL": format!("https://{host}/v1")},
            "credential": {"secretRef": {"name": "s", "key": "key"}},
            "model": "m",
        });
        Document::ModelDeployment(Box::new(Object {
            meta: Meta::new("n", "m"),
            spec: serde_json::from_value(spec).unwrap(),
        }))
    }

    fn compile(documents: &[Document], secrets: &Secrets, previous: Option<&Snapshot>) -> compile::Compiled {
        let hashes = KeyHashes::default();
        compile::compile(Input { previous, ..Input::new(documents, secrets, &hashes, Mode::Cluster, 0) })
    }

    #[test]
    fn what_is_published_of_a_secret_that_cannot_be_read_goes_on_to_the_same_host_only() {
        let known: Secrets = [secret("value")].into_iter().collect();
        let before = compile(&[deployment("one.example.com")], &known, None);
        assert_eq!(before.credentials.len(), 1);

        let mut unread = Secrets::default();
        unread.insert_unread("n", "s", Unread::Failed("no answer".into()));
        fill(&mut unread, &before.snapshot, &before.credentials);
        let same = compile(&[deployment("one.example.com")], &unread, Some(&before.snapshot));
        assert_eq!(
            (&same.snapshot.deployments, &same.credentials),
            (&before.snapshot.deployments, &before.credentials)
        );
        let elsewhere = compile(&[deployment("two.example.com")], &unread, Some(&before.snapshot));
        assert_eq!(elsewhere.credentials, []);
    }

    #[test]
    fn a_secret_that_may_not_be_read_is_over() {
        let known: Secrets = [secret("value")].into_iter().collect();
        let before = compile(&[deployment("one.example.com")], &known, None);
        let mut forbidden = Secrets::default();
        forbidden.insert_unread("n", "s", Unread::Forbidden);
        fill(&mut forbidden, &before.snapshot, &before.credentials);
        assert!(forbidden.get("n", "s").is_none());
    }
}
