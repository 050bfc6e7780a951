//! `tollgate explain`.

use std::path::PathBuf;
use std::process::ExitCode;

use tollgate_snapshot::Severity;
use tollgate_snapshot::model::{Key, Route, Snapshot};

use crate::check::DEFAULT_NAMESPACE;
use crate::cluster::{self, Look, Remark};
use crate::config::load::{Loaded, Placed, line};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Public model name, as a client would ask for it.
    model: String,

    /// Name of the VirtualKey that asks (never its value), as `name` or `namespace/name`. Default: the master key.
    #[arg(long, value_name = "NAME")]
    key: Option<String>,

    /// Folder or file of resources, or a LiteLLM config.yaml. Not read when a cluster is looked at.
    #[arg(
        long,
        short,
        env = "TOLLGATE_CONFIG",
        value_name = "PATH",
        required_unless_present_any = ["cluster", "kubeconfig", "context"]
    )]
    config: Option<PathBuf>,

    /// Namespace of objects in files that name none; in a cluster, of the key, or where the master key asks. Default:
    /// `default`, or that of the kubeconfig's context.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    cluster: cluster::Arguments,
}

/// Prints what a request would do; 1 when it would be refused.
///
/// # Errors
/// The path or the cluster cannot be read, or no such key exists.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { model, key, config, namespace, cluster } = arguments;
    let key = key.as_deref();
    let explained = if cluster.is_given() {
        let Look { snapshots, findings, remarks, namespace: told } =
            cluster::look(cluster, namespace.as_deref(), None)?;
        let snapshot = choose(&snapshots, key, told.as_deref())?;
        explain(&Known { snapshot, findings: &findings, remarks: &remarks, namespace: told.as_deref() }, model, key)?
    } else {
        let config = config.as_deref().expect("clap asks for a path where no cluster is given");
        let namespace = namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let Loaded { snapshot, findings, .. } = crate::check::load_only(config, namespace)?;
        explain(&Known { snapshot: &snapshot, findings: &findings, remarks: &[], namespace: None }, model, key)?
    };
    println!("{}", explained.text.trim_end());
    Ok(if explained.served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What explanations are made of.
struct Known<'k> {
    snapshot: &'k Snapshot,
    findings: &'k [Placed],
    remarks: &'k [Remark],
    /// Where the key is, or where the master key asks; `None`: any, and that of the gateway.
    namespace: Option<&'k str>,
}

/// The snapshot that has the key; for the master key the first.
fn choose<'s>(snapshots: &'s [Snapshot], key: Option<&str>, namespace: Option<&str>) -> anyhow::Result<&'s Snapshot> {
    let has_key = |snapshot: &&Snapshot| key.is_none_or(|wanted| find_key(snapshot, wanted, namespace).is_some());
    let found = snapshots.iter().find(has_key).or(snapshots.first());
    found.ok_or_else(|| anyhow::anyhow!("there is no LLMGateway, so nobody can call"))
}

/// A key by `name` or `namespace/name`. `namespace`: where one without is looked for.
fn find_key<'s>(snapshot: &'s Snapshot, wanted: &str, namespace: Option<&str>) -> Option<&'s Key> {
    snapshot.keys.iter().find(|key| {
        let own = &snapshot.namespaces[snapshot.policies[key.policy as usize].namespace as usize].name;
        let is_here = namespace.is_none_or(|namespace| **own == *namespace);
        (*key.name == *wanted && is_here) || format!("{own}/{}", key.name) == wanted
    })
}

struct Explained {
    text: String,
    served: bool,
}

fn explain(known: &Known<'_>, asked: &str, key: Option<&str>) -> anyhow::Result<Explained> {
    use std::fmt::Write;
    let snapshot = known.snapshot;
    let mut text = String::new();
    let (namespace, name) = match key {
        None => {
            let here = known.namespace.unwrap_or(&snapshot.gateway.namespace);
            let namespace = snapshot.namespaces.iter().position(|namespace| *namespace.name == *here);
            let _ = writeln!(text, "key:    master key (namespace {here}, no limits of its own)");
            if *here != *snapshot.gateway.namespace {
                let _ = writeln!(text, "asks:   {here}/{asked}");
            }
            (namespace, asked.to_owned())
        }
        Some(wanted) => {
            let Some(key) = find_key(snapshot, wanted, known.namespace) else {
                anyhow::bail!("there is no usable VirtualKey `{wanted}`; `tollgate check` says why")
            };
            let policy = &snapshot.policies[key.policy as usize];
            let namespace = policy.namespace as usize;
            let team = policy.team.map(|team| &snapshot.teams[team as usize]);
            let of_team = team.map(|team| format!(", team {}", team.name)).unwrap_or_default();
            let _ = writeln!(text, "key:    {}/{}{of_team}", snapshot.namespaces[namespace].name, key.name);
            let alias = policy.aliases.iter().find(|(alias, _)| **alias == *asked);
            let name = alias.map_or(asked.to_owned(), |(_, target)| target.to_string());
            if alias.is_some() {
                let _ = writeln!(text, "alias:  {asked} stands for {name}");
            }
            if key.disabled {
                let _ = writeln!(text, "refused: the key is disabled (401)");
                return Ok(Explained { text, served: false });
            }
            if team.is_some_and(|team| team.blocked) {
                let _ = writeln!(text, "refused: the key's team is blocked (401)");
                return Ok(Explained { text, served: false });
            }
            let key_allows = policy.models.as_ref().map(|models| models.contains(&name));
            let team_allows = team.and_then(|team| team.models.as_ref()).map(|models| models.contains(&name));
            let refusal = match (key_allows, team_allows) {
                (Some(false), _) => Some("the key's models do not include it"),
                (_, Some(false)) => Some("the team's models do not include it"),
                (None, None) => Some("neither the key nor a team of it allows any model"),
                _ => None,
            };
            if let Some(refusal) = refusal {
                let _ = writeln!(text, "refused: {refusal} (403)");
                return Ok(Explained { text, served: false });
            }
            for budget in &key.budgets {
                let budget = &snapshot.budgets[*budget as usize];
                let mode = if budget.hard { "hard" } else { "soft" };
                let _ = writeln!(text, "budget: {} ({mode})", budget.id);
            }
            (Some(namespace), name)
        }
    };
    let route = namespace.and_then(|namespace| find_route(snapshot, namespace, &name));
    let Some(route) = route else {
        let _ = writeln!(text, "refused: no RouteGroup or ModelDeployment offers `{name}` here (400 model_not_found)");
        left_out(&mut text, known, &name);
        return Ok(Explained { text, served: false });
    };
    describe(&mut text, snapshot, route, "route");
    for fallback in &route.fallbacks {
        let errors: Vec<String> = fallback.errors.iter().map(|error| format!("{error:?}")).collect();
        for index in &fallback.routes {
            let _ = writeln!(text, "on {}:", errors.join(", "));
            describe(&mut text, snapshot, &snapshot.routes[*index as usize], "  fallback");
        }
    }
    left_out(&mut text, known, &name);
    Ok(Explained { text, served: !route.targets.is_empty() })
}

fn find_route<'a>(snapshot: &'a Snapshot, namespace: usize, name: &str) -> Option<&'a Route> {
    let namespace = &snapshot.namespaces[namespace];
    let exact = namespace.exact.iter().find(|(exact, _)| **exact == *name);
    let index = exact.or_else(|| namespace.prefixes.iter().find(|(prefix, _)| name.starts_with(&**prefix)))?.1;
    Some(&snapshot.routes[index as usize])
}

fn describe(text: &mut String, snapshot: &Snapshot, route: &Route, word: &str) {
    use std::fmt::Write;
    let kind = if route.explicit { "RouteGroup" } else { "deployments named" };
    let _ = writeln!(
        text,
        "{word}:  {kind} {} ({:?}, {} retries; benched {} s after {} failures in {} s)",
        route.owner,
        route.strategy,
        route.retries.attempts,
        route.cooldown.duration_ms / 1000,
        route.cooldown.failures,
        route.cooldown.window_ms / 1000
    );
    let mut targets: Vec<_> = route.targets.iter().collect();
    targets.sort_by_key(|target| target.priority);
    for priority in targets.iter().map(|target| target.priority).collect::<std::collections::BTreeSet<_>>() {
        let level: Vec<_> = targets.iter().filter(|target| target.priority == priority).collect();
        let sum: u64 = level.iter().map(|target| u64::from(target.weight)).sum();
        for target in level {
            let deployment = &snapshot.deployments[target.deployment as usize];
            let share = (u64::from(target.weight) * 100).checked_div(sum).unwrap_or(0);
            let condition = target.when.as_deref().map(|when| format!(", when {when}")).unwrap_or_default();
            let price = match &deployment.price {
                None => "no price".to_owned(),
                Some(price) => {
                    let rate = |rate: Option<tollgate_snapshot::money::Rate>| {
                        rate.map_or("-".to_owned(), |rate| rate.to_per_million_text())
                    };
                    format!("${} in, ${} out per million tokens", rate(price.input_rate()), rate(price.output_rate()))
                }
            };
            let _ = writeln!(
                text,
                "  priority {priority}: {}/{} {share}% → {} {} at {}:{} ({price}{condition})",
                deployment.namespace,
                deployment.name,
                deployment.provider,
                deployment.model,
                deployment.endpoint.host,
                deployment.endpoint.port
            );
            if let Some(price) = &deployment.price {
                let _ = writeln!(text, "    price from {}", price.version());
            }
        }
    }
}

/// Deployments that could be meant, and why they are not in use.
fn left_out(text: &mut String, known: &Known<'_>, name: &str) {
    use std::fmt::Write;
    let is_about = |kind: &str| matches!(kind, "ModelDeployment" | "RouteGroup" | "ProviderAccount" | "Secret");
    let mut shown = false;
    for placed in known.findings {
        let finding = &placed.finding;
        if is_about(finding.object.kind) && finding.severity == Severity::Error {
            if !shown {
                let _ = writeln!(text, "not in use (any of these may be what `{name}` should lead to):");
                shown = true;
            }
            let _ = writeln!(text, "  {}", line(placed, None));
        }
    }
    let mut told = known.remarks.iter().filter(|remark| is_about(remark.object.kind)).peekable();
    if told.peek().is_some() {
        let _ = writeln!(text, "the cluster says:");
    }
    for remark in told {
        let _ = writeln!(text, "  {remark}");
    }
}
