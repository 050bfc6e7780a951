//! I/O: what the operator and the proxies may not do although objects need it. The API server answers for them
//! (SubjectAccessReview), so that every way to grant a permission counts; where the user may not ask, nothing is said.

use std::collections::BTreeSet;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client, Resource as _};
use tollgate_snapshot::ObjectRef;
use tollgate_snapshot::compile::Document;

use super::read::{self, AT_ONCE, code, is_forbidden};
use super::remark::Remark;
use crate::config::cluster::secret_uses;

/// Labels of the operator's Deployment.
const OPERATOR: &str = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=tollgate";

/// What proxies run as, unless the operator was told otherwise.
const PROXY: &str = "tollgate-proxy";

/// What the operator applies for a gateway, as API group and resource.
const CHILDREN: [(&str, &str); 5] = [
    ("", "services"),
    ("apps", "deployments"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
];

/// One permission that somebody needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    namespace: String,
    group: &'static str,
    resource: &'static str,
    /// `None`: all of the namespace.
    name: Option<String>,
    verbs: &'static [&'static str],
}

/// Who needs what for which object, and what to do where it is missing.
struct Question {
    object: ObjectRef,
    who: &'static str,
    /// Namespace and name of the ServiceAccount.
    account: (String, String),
    needs: Vec<Need>,
    hint: String,
}

/// Permissions that are missing. `is_told`: whether objects of a namespace are to be told of.
///
/// # Errors
/// The API server cannot be reached.
pub async fn missing(
    client: &Client,
    documents: &[Document],
    operator: Operator,
    is_told: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<Remark>> {
    let mut remarks = Vec::new();
    let mut questions = Vec::new();
    for document in documents {
        let Document::LLMGateway(gateway) = document else { continue };
        if is_told(&gateway.meta.namespace) {
            remarks.extend(proxy_account(client, &document.object_ref()).await?);
            questions.push(of_proxies(&document.object_ref()));
        }
    }
    match operator {
        Operator::Found(account) => questions.extend(of_operator(documents, &account, is_told)),
        Operator::NotFound => {
            let object = ObjectRef { kind: "Deployment", namespace: String::new(), name: String::new() };
            let message = "no operator is installed, or its Deployment has other labels".to_owned();
            let hint = format!("it is looked for by {OPERATOR}; --operator names its ServiceAccount");
            remarks.push(Remark::warning(object, "OperatorNotFound", message, hint));
        }
        Operator::NotReadable => {}
    }
    let answers = futures_util::stream::iter(questions.into_iter().map(|question| ask(client, question)));
    match answers.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await {
        Ok(answers) => remarks.extend(answers.into_iter().flatten()),
        Err(error) if is_forbidden(&error) => {
            tracing::info!("you may not ask what others may do (subjectaccessreviews): permissions are not looked at");
        }
        Err(error) => return Err(error).context("cannot ask what the operator may do"),
    }
    remarks.sort_by(|a, b| (&a.object, &a.message).cmp(&(&b.object, &b.message)));
    Ok(remarks)
}

/// The operator's ServiceAccount.
pub enum Operator {
    /// Namespace and name.
    Found((String, String)),
    NotFound,
    NotReadable,
}

impl Operator {
    /// Where it runs, if that is known.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Operator::Found((namespace, _)) => Some(namespace),
            Operator::NotFound | Operator::NotReadable => None,
        }
    }
}

/// Who the operator is. `given`: its ServiceAccount; where that is not said, its Deployment tells it.
///
/// # Errors
/// The API server cannot be reached.
pub async fn operator(client: &Client, given: Option<(String, String)>) -> anyhow::Result<Operator> {
    if let Some(account) = given {
        return Ok(Operator::Found(account));
    }
    let found = read::list_where::<Deployment>(client, &Deployment::url_path(&(), None), Some(OPERATOR)).await;
    let found = match found {
        Ok(found) => found,
        Err(error) if is_forbidden(&error) => return Ok(Operator::NotReadable),
        Err(error) => return Err(error).context("cannot look for the operator's Deployment"),
    };
    let account = |deployment: Deployment| {
        let pod = deployment.spec?.template.spec?;
        Some((deployment.metadata.namespace?, pod.service_account_name.unwrap_or_else(|| "default".to_owned())))
    };
    Ok(found.into_iter().find_map(account).map_or(Operator::NotFound, Operator::Found))
}

/// Whether the proxies of a gateway have something to run as.
async fn proxy_account(client: &Client, gateway: &ObjectRef) -> anyhow::Result<Option<Remark>> {
    let url = ServiceAccount::url_path(&(), Some(&gateway.namespace));
    match read::get::<ServiceAccount>(client, &url, PROXY).await {
        Ok(_) => Ok(None),
        Err(error) if is_forbidden(&error) => Ok(None),
        Err(error) if code(&error) == Some(404) => {
            let message = format!("ServiceAccount `{PROXY}` does not exist in namespace `{}`", gateway.namespace);
            Ok(Some(Remark::error(gateway.clone(), "NamespaceNotPrepared", message, PREPARE)))
        }
        Err(error) => Err(error).context("cannot look for the proxies' ServiceAccount"),
    }
}

const PREPARE: &str = "name the namespace in the chart's value `gateways`, or apply the template of \
                       docs/kubernetes/tenancy.md";

fn of_proxies(gateway: &ObjectRef) -> Question {
    let ObjectRef { namespace, name, .. } = gateway;
    let need = |resource, name, verbs| Need { namespace: namespace.clone(), group: "", resource, name, verbs };
    Question {
        object: gateway.clone(),
        who: "the proxies",
        account: (namespace.clone(), PROXY.to_owned()),
        needs: vec![
            need("configmaps", None, &["list", "watch"]),
            need("secrets", Some(format!("tollgate-{name}-credentials-0")), &["get", "watch"]),
        ],
        hint: PREPARE.to_owned(),
    }
}

fn of_operator(documents: &[Document], account: &(String, String), is_told: impl Fn(&str) -> bool) -> Vec<Question> {
    let question = |object: &ObjectRef, needs, hint| Question {
        object: object.clone(),
        who: "the operator",
        account: account.clone(),
        needs,
        hint,
    };
    let mut questions = Vec::new();
    for document in documents.iter().filter(|document| is_told(&document.meta().namespace)) {
        let Document::LLMGateway(_) = document else { continue };
        let ObjectRef { namespace, name, .. } = &document.object_ref();
        let need = |group, resource, name, verbs| Need { namespace: namespace.clone(), group, resource, name, verbs };
        let mut needs: Vec<Need> =
            CHILDREN.iter().map(|(group, resource)| need(group, resource, None, &["create", "patch"])).collect();
        needs.push(need("", "configmaps", None, &["get", "list", "watch", "create", "update", "delete"]));
        needs.push(need("", "pods", None, &["list", "watch"]));
        needs.push(need("", "secrets", None, &["create"]));
        needs.push(need("", "secrets", Some(format!("tollgate-{name}-credentials-0")), &["get", "patch"]));
        questions.push(question(&document.object_ref(), needs, PREPARE.to_owned()));
    }
    for ((namespace, name), wanted) in secret_uses(documents) {
        if !is_told(&namespace) {
            continue;
        }
        let need = |name, verbs| Need { namespace: namespace.clone(), group: "", resource: "secrets", name, verbs };
        let (needs, role) = if wanted.is_generated {
            (vec![need(None, &["create"]), need(Some(name), &["get", "patch"])], "key-writer")
        } else {
            (vec![need(Some(name), &["get", "watch"])], "secret-reader")
        };
        questions.push(question(&wanted.by, needs, bind(&namespace, account, role)));
    }
    questions
}

/// The command that binds a ClusterRole of the chart to the operator in a namespace.
fn bind(namespace: &str, account: &(String, String), role: &str) -> String {
    let (home, name) = account;
    let release = name.strip_suffix("-operator").unwrap_or(name);
    let stem = if release == home { release.to_owned() } else { format!("{home}-{release}") };
    format!(
        "kubectl -n {namespace} create rolebinding {release}-{role} --clusterrole={stem}-{role} \
         --serviceaccount={home}:{name}"
    )
}

/// `None`: nothing is missing.
async fn ask(client: &Client, question: Question) -> Result<Option<Remark>, kube::Error> {
    let Question { object, who, account, needs, hint } = question;
    let mut refused = Vec::new();
    for need in needs {
        let mut verbs = BTreeSet::new();
        for verb in need.verbs {
            if !may(client, &account, &need, verb).await? {
                verbs.insert(*verb);
            }
        }
        if !verbs.is_empty() {
            let verbs: Vec<&str> = verbs.into_iter().collect();
            let name = need.name.map(|name| format!(" `{name}`")).unwrap_or_default();
            refused.push(format!("{} {}{name}", verbs.join(", "), need.resource));
        }
    }
    if refused.is_empty() {
        return Ok(None);
    }
    let namespace = &object.namespace;
    let message = format!("{who} may not {} in namespace `{namespace}`", refused.join("; "));
    Ok(Some(Remark::error(object, "BindingMissing", message, hint)))
}

async fn may(client: &Client, account: &(String, String), need: &Need, verb: &str) -> Result<bool, kube::Error> {
    let (home, name) = account;
    let Need { namespace, group, resource, name: object, verbs: _ } = need;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{home}:{name}")),
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{home}"),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.clone()),
                group: Some((*group).to_owned()),
                resource: Some((*resource).to_owned()),
                name: object.clone(),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_roles_of_the_chart() {
        let account = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        assert_eq!(
            bind("team-a", &account("tollgate", "tollgate-operator"), "secret-reader"),
            "kubectl -n team-a create rolebinding tollgate-secret-reader --clusterrole=tollgate-secret-reader \
             --serviceaccount=tollgate:tollgate-operator"
        );
        assert!(bind("a", &account("llm", "tollgate-operator"), "key-writer").contains("=llm-tollgate-key-writer "));
    }
}
