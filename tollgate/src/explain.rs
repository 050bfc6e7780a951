//! `tollgate explain`.

use std::process::ExitCode;

use tollgate_snapshot::Severity;
use tollgate_snapshot::model::{Route, Snapshot};

use crate::config::load::{Loaded, line};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Public model name, as a client would ask for it.
    model: String,

    /// Name of the VirtualKey that asks (never its value), as `name` or `namespace/name`. Default: the master key.
    #[arg(long, value_name = "NAME")]
    key: Option<String>,

    /// Folder or file of resources, or a LiteLLM config.yaml.
    #[arg(long, short, env = "TOLLGATE_CONFIG", value_name = "PATH")]
    config: std::path::PathBuf,

    /// Namespace of objects that name none.
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,
}

/// Prints what a request would do; 1 when it would be refused.
///
/// # Errors
/// The path cannot be read, or no such key exists.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let loaded = crate::check::load_only(&arguments.config, &arguments.namespace)?;
    let explained = explain(&loaded, &arguments.model, arguments.key.as_deref())?;
    println!("{}", explained.text.trim_end());
    Ok(if explained.served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Explained {
    text: String,
    served: bool,
}

fn explain(loaded: &Loaded, asked: &str, key: Option<&str>) -> anyhow::Result<Explained> {
    use std::fmt::Write;
    let snapshot = &loaded.snapshot;
    let mut text = String::new();
    let (namespace, name) = match key {
        None => {
            let namespace =
                snapshot.namespaces.iter().position(|namespace| namespace.name == snapshot.gateway.namespace);
            let _ =
                writeln!(text, "key:    master key (namespace {}, no limits of its own)", snapshot.gateway.namespace);
            (namespace, asked.to_owned())
        }
        Some(wanted) => {
            let found = snapshot.keys.iter().find(|key| {
                let namespace = &snapshot.namespaces[snapshot.policies[key.policy as usize].namespace as usize].name;
                *key.name == *wanted || format!("{namespace}/{}", key.name) == wanted
            });
            let Some(key) = found else {
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
        left_out(&mut text, loaded, &name);
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
    left_out(&mut text, loaded, &name);
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
        }
    }
}

/// Deployments that could be meant, and why they are not in use.
fn left_out(text: &mut String, loaded: &Loaded, name: &str) {
    use std::fmt::Write;
    let mut shown = false;
    for placed in &loaded.findings {
        let finding = &placed.finding;
        let about = matches!(finding.object.kind, "ModelDeployment" | "RouteGroup" | "ProviderAccount" | "Secret");
        if about && finding.severity == Severity::Error {
            if !shown {
                let _ = writeln!(text, "not in use (any of these may be what `{name}` should lead to):");
                shown = true;
            }
            let _ = writeln!(text, "  {}", line(placed, None));
        }
    }
}
