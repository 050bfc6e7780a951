//! The status of each kind: its conditions and what its printer columns show. Pure.

use serde::Serialize;
use tollgate_allocator::tally::Of;
use tollgate_crds::{
    BudgetSpec, BudgetStatus, BudgetUnit, Condition, ConditionStatus, Enforcement, ExhaustedAction, KeyPolicy,
    LLMGatewaySpec, LLMGatewayStatus, LocalRef, ModelDeploymentSpec, ModelDeploymentStatus, ObjectRef as Reference,
    Period, ProbeMode, ProviderAccountSpec, ProviderAccountStatus, RouteGroupSpec, RouteGroupStatus, TeamSpec,
    TeamStatus, TimestampText, VirtualKeySpec, VirtualKeyStatus,
};
use tollgate_snapshot::compile::{Document, Kind, Meta, Object};
use tollgate_snapshot::{Finding, GatewayName, ObjectRef, Reason, Severity};

use super::condition::{
    ACCEPTED, ACTIVE, AVAILABLE, Common, PROGRAMMED, READY, RESOLVED_REFS, Statement, WITHIN_CAPACITY, conditions,
    ready,
};
use super::index::budget_object;
use super::queue::{Urgency, Wanted};
use super::{Pass, is_sound, moment, text};
use crate::allocator::CEILING;
use crate::events::Event;
use crate::facts::{AllocationFact, GatewayFact, Problem, SpendFact};
use crate::gateway::served::OF_SPEC;
use crate::names::ABANDON_ANNOTATION;
use crate::world::{Figures, Record, Seen, SeenCondition, digest, solid, text_of};

/// What an object is looked at with.
struct Look<'a> {
    object: ObjectRef,
    record: &'a Record,
    findings: &'a [Finding],
    before: &'a Seen,
    /// Worth an Event beside conditions that turned.
    happened: Vec<Event>,
}

/// An account that a key has for itself.
struct Account<'o> {
    id: String,
    /// Ready to print.
    limit: String,
    unit: BudgetUnit,
    period: &'o Period,
}

impl<'a> Pass<'a> {
    pub(super) fn look_at(&mut self, document: &'a Document, record: &'a Record) {
        let object = document.object_ref();
        let findings = self.findings(&object);
        let before = self.before(&object, record);
        let look = Look { object, record, findings, before, happened: Vec::new() };
        match document {
            Document::LLMGateway(object) => self.gateway(document, object, look),
            Document::ProviderAccount(object) => self.account(document, object, look),
            Document::ModelDeployment(object) => self.deployment(document, object, look),
            Document::RouteGroup(object) => self.group(document, object, look),
            Document::Team(object) => self.team(document, object, look),
            Document::VirtualKey(object) => self.key(document, object, look),
            Document::Budget(object) => self.budget(document, object, look),
        }
    }

    fn common(&self, document: &Document, look: &Look<'a>, in_tables: bool) -> Vec<Statement> {
        let running = self.running(document, look.record, look.before, look.findings, in_tables);
        Common { findings: look.findings, running }.statements().to_vec()
    }

    fn gateway(&mut self, document: &Document, object: &Object<LLMGatewaySpec>, look: Look<'a>) {
        let name = (object.meta.namespace.clone(), object.meta.name.clone());
        let fact = self.known.gateway(&name, look.record);
        let (namespace, gateway) = name.clone();
        let compiled = self.compiled.snapshots.get(&GatewayName { namespace, name: gateway });
        let is_counted_here = compiled.is_none_or(|snapshot| snapshot.gateway.redis.is_none());
        let allocation = self.known.allocations.get(&name).copied().filter(|_| is_counted_here);
        let is_said = is_counted_here && look.before.condition(WITHIN_CAPACITY).is_some();
        let is_known = fact.is_some() && self.known.proxies.contains_key(&name) && (allocation.is_some() || !is_said);
        if self.term.young && !is_known && look.before.generation == Some(look.record.generation) {
            // Better as it was than without its address for a moment.
            return;
        }
        let GatewayFact { uid: _, generation: looked_at, is_looked_at: _, address, replicas, selector, problem } =
            fact.cloned().unwrap_or_default();
        let proxies = self.known.proxies.get(&name).cloned().unwrap_or_default();
        // A gateway is in its own tables whatever is wrong with single fields.
        let mut statements = self.common(document, &look, true);
        let mut more = Vec::new();
        match &problem {
            // What is known is of another version.
            _ if looked_at != look.record.generation => {
                let message = "the operator has not looked yet whether it can be run";
                more.push(Statement::unknown(READY, "Pending", message));
                if statements[0].is_true() {
                    statements[0] = Statement::unknown(ACCEPTED, "Pending", message);
                }
            }
            Some(Problem { reason, message }) if OF_SPEC.contains(reason) && statements[0].is_true() => {
                statements[0] = Statement::fails(ACCEPTED, reason, message.clone());
            }
            Some(Problem { reason, message }) => more.push(Statement::fails(READY, reason, message.clone())),
            None => {}
        }
        let mut summary = statements.clone();
        summary.extend(more);
        statements.push(ready(&summary, "its proxies serve"));
        statements.extend(allocation.map(capacity));
        let status = LLMGatewayStatus {
            observed_generation: Some(look.record.generation),
            conditions: self.timed(statements, &look),
            address,
            proxies: Some(format!("{}/{}", proxies.ready, proxies.total)),
            replicas: Some(replicas),
            selector,
            keys: Some(self.index.keys_of_gateway.get(&(&*name.0, &*name.1)).copied().unwrap_or(0)),
            programmed_generation: proxies.generation.and_then(|generation| i64::try_from(generation).ok()),
        };
        self.show(look, &status, |status| &status.conditions);
    }

    fn account(&mut self, document: &Document, object: &Object<ProviderAccountSpec>, look: Look<'a>) {
        let mut statements = self.common(document, &look, is_sound(look.findings));
        statements.push(ready(&statements, "its credentials can be used"));
        let ProviderAccountSpec { credentials, .. } = &object.spec;
        let is_broken = |at: usize| {
            let field = format!("spec.credentials[{at}]");
            let is_of = |finding: &&Finding| {
                finding.severity == Severity::Error
                    && finding.field.strip_prefix(&field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            look.findings.iter().any(|finding| is_of(&finding))
        };
        let working = (0..credentials.len()).filter(|at| !is_broken(*at)).count();
        let status = ProviderAccountStatus {
            observed_generation: Some(look.record.generation),
            conditions: self.timed(statements, &look),
            credentials: Some(format!("{working}/{}", credentials.len())),
        };
        self.show(look, &status, |status| &status.conditions);
    }

    fn deployment(&mut self, document: &'a Document, object: &'a Object<ModelDeploymentSpec>, look: Look<'a>) {
        let meta = &object.meta;
        let name = (meta.namespace.clone(), meta.name.clone());
        let compiled = self.index.deployments.get(&(&*meta.namespace, &*meta.name)).copied();
        let mut statements = self.common(document, &look, compiled.is_some());
        let probe = self.known.probes.get(&name);
        let mut summary = statements.clone();
        summary.extend(self.probed(object, &look));
        let ready = ready(&summary, "it serves");
        // One that proxies are about to take over serves as it was.
        let state = if ready.reason == "Pending" { ConditionStatus::Unknown } else { ready.status };
        self.ready.insert((&meta.namespace, &meta.name), state);
        statements.push(ready);
        let ModelDeploymentSpec { account_ref, provider, model_names, .. } = &object.spec;
        let of_account = || {
            let Reference { name, namespace } = account_ref.as_ref()?;
            let namespace = namespace.as_deref().unwrap_or(&meta.namespace);
            // What a namespace may not use it learns nothing of.
            compiled?;
            Some(self.objects.account(namespace, name)?.0.spec.provider.clone())
        };
        let tally = self.tally(Of::Deployment, &name.0, &name.1);
        let price = compiled.and_then(|compiled| compiled.price.as_deref());
        let rate =
            |rate: Option<tollgate_snapshot::money::Rate>| rate.map(|rate| text::price(&rate.to_per_million_text()));
        let names = model_names.iter().map(String::as_str);
        let status = ModelDeploymentStatus {
            observed_generation: Some(look.record.generation),
            conditions: self.timed(statements, &look),
            provider: provider.clone().or_else(of_account),
            names: Some(if model_names.is_empty() { meta.name.clone() } else { text::names(names) }),
            p50: self
                .known
                .p50_ms
                .get(&name)
                .map(|milliseconds| format!("{milliseconds}ms"))
                .or_else(|| look.before.p50.as_deref().map(str::to_owned)),
            last_probe_at: probe
                .map(|probe| probe.at)
                .or(look.before.last_probe_at)
                .map(|at| TimestampText::new(moment(at))),
            input_price: rate(price.and_then(|price| price.input_rate())),
            output_price: rate(price.and_then(|price| price.output_rate())),
            spent: Pass::spent_this_month(tally, look.before),
        };
        self.show(look, &status, |status| &status.conditions);
    }

    /// What the last probe says; nothing where none is made.
    fn probed(&self, object: &Object<ModelDeploymentSpec>, look: &Look<'a>) -> Option<Statement> {
        if object.spec.probe.mode == ProbeMode::None {
            return None;
        }
        let name = (object.meta.namespace.clone(), object.meta.name.clone());
        match self.known.probes.get(&name) {
            Some(probe) if probe.generation == look.record.generation => {
                let reason = probe.reason;
                Some(Statement::new(READY, holds(probe.ok), reason, probe.message.clone()))
            }
            // After a restart of the operator: what was found out before counts until the next probe.
            None if look.before.generation == Some(look.record.generation) => {
                let SeenCondition { status, reason, .. } = look.before.condition(READY)?;
                let message = "as of the last probe";
                Some(match status {
                    ConditionStatus::True => Statement::holds(READY, reason, message),
                    ConditionStatus::False | ConditionStatus::Unknown => not_probed(),
                })
            }
            Some(_) | None => Some(not_probed()),
        }
    }

    fn group(&mut self, document: &Document, object: &'a Object<RouteGroupSpec>, look: Look<'a>) {
        let meta = &object.meta;
        let in_tables = self.index.groups.contains(&(&*meta.namespace, &*meta.name));
        let mut statements = self.common(document, &look, in_tables);
        let RouteGroupSpec { model_names, targets, fallbacks, .. } = &object.spec;
        let count = |wanted: ConditionStatus| {
            let states = targets.iter().filter_map(|target| {
                let Reference { name, namespace } = &target.model_deployment_ref;
                self.ready.get(&(namespace.as_deref().unwrap_or(&meta.namespace), &**name))
            });
            states.filter(|state| **state == wanted).count()
        };
        let working = count(ConditionStatus::True);
        let mut summary = statements.clone();
        match (working, count(ConditionStatus::Unknown)) {
            (0, 0) => summary.push(Statement::fails(READY, "NoTargetReady", "no target is ready")),
            (0, _) => {
                summary.push(Statement::unknown(READY, "NoTargetReady", "of no target it is known that it is ready"))
            }
            (_, _) => {}
        }
        statements.push(ready(&summary, "it serves"));
        let fallback_models = fallbacks.iter().flat_map(|fallback| fallback.models.iter().map(String::as_str));
        let names = model_names.iter().map(String::as_str);
        let status = RouteGroupStatus {
            observed_generation: Some(look.record.generation),
            conditions: self.timed(statements, &look),
            names: Some(if model_names.is_empty() { meta.name.clone() } else { text::names(names) }),
            targets: Some(format!("{working}/{}", targets.len())),
            fallbacks: (!fallbacks.is_empty()).then(|| text::names(fallback_models)),
        };
        self.show(look, &status, |status| &status.conditions);
    }

    fn team(&mut self, document: &Document, object: &Object<TeamSpec>, look: Look<'a>) {
        let name = (&*object.meta.namespace, &*object.meta.name);
        let in_tables = self.index.teams.contains(&name) || is_sound(look.findings);
        let mut statements = self.common(document, &look, in_tables);
        statements.push(ready(&statements, "its keys are bound by it"));
        let budget = object.spec.budget.as_ref();
        let tally = self.tally(Of::Team, name.0, name.1);
        let (spent, used_percent) = match budget {
            Some(budget) => self.spent_of(&format!("{}/Team/{}", name.0, name.1), budget.unit, look.before),
            None => (Pass::spent_this_month(tally, look.before), None),
        };
        let status = TeamStatus {
            observed_generation: Some(look.record.generation),
            conditions: self.timed(statements, &look),
            keys: Some(self.index.keys_of_team.get(&name).copied().unwrap_or(0)),
            limit: object.spec.budget.as_ref().map(text::limit),
            resets: object.spec.budget.as_ref().and_then(|budget| self.resets(&budget.period)),
            spent,
            used_percent,
        };
        self.show(look, &status, |status| &status.conditions);
    }

    fn key(&mut self, document: &Document, object: &'a Object<VirtualKeySpec>, look: Look<'a>) {
        let meta = &object.meta;
        let VirtualKeySpec { team_ref, budget, disabled, key_hash, secret, .. } = &object.spec;
        let compiled = self.index.keys.get(&(&*meta.namespace, &*meta.name)).copied();
        let known = self.known.key(&meta.namespace, &meta.name, look.record);
        let mut statements = self.common(document, &look, compiled.is_some());
        // That there is no key yet is only what comes of it.
        let problem = known.and_then(|known| known.problem.as_ref());
        let is_generated = secret.as_ref().is_some_and(|secret| secret.policy == KeyPolicy::Generate);
        let has_none = is_generated && known.is_none_or(|known| known.hash.is_none());
        if let Some(Problem { reason, message }) = problem.filter(|_| has_none || statements[1].is_true()) {
            statements[1] = Statement::fails(RESOLVED_REFS, reason, message.clone());
        } else if is_generated && statements[0].is_true() && look.findings.iter().any(is_of_key_to_come) {
            // It is made in a moment, or is made and not compiled yet.
            let message = "the key is being made";
            statements[1] = Statement::unknown(RESOLVED_REFS, "Pending", message);
            statements[2] = Statement::fails(PROGRAMMED, "Pending", message);
        }
        statements.push(ready(&statements, "every ready proxy knows it"));
        let expires_at = compiled.and_then(|compiled| compiled.expires_at);
        if let Some(at) = expires_at {
            self.will_change(at);
        }
        let blocked = team_ref.as_ref().is_some_and(|team| {
            let namespace = team.namespace.as_deref().unwrap_or(&meta.namespace);
            self.objects.team(namespace, &team.name).is_some_and(|(team, _)| team.spec.blocked)
        });
        statements.push(if *disabled {
            Statement::fails(ACTIVE, "Disabled", "spec.disabled is set")
        } else if let Some(at) = expires_at.filter(|at| *at <= self.now) {
            Statement::fails(ACTIVE, "Expired", format!("it ended at {}", moment(at)))
        } else if blocked {
            Statement::fails(ACTIVE, "TeamBlocked", "spec.blocked of its team is set")
        } else if compiled.is_none() {
            let cause = statements.iter().find(|statement| statement.status == ConditionStatus::False);
            let (reason, message) =
                cause.map_or(("NotInUse", "no proxy knows it"), |cause| (&cause.reason, &cause.message));
            Statement::fails(ACTIVE, reason, message)
        } else if let Some(Problem { reason, message }) = self.unpublished(document, look.before) {
            Statement::fails(ACTIVE, reason, format!("no proxy knows it, the tables are not written: {message}"))
        } else {
            Statement::holds(ACTIVE, ACTIVE, "calls with it are served")
        });
        let of_team = || {
            let Reference { name, namespace } = team_ref.as_ref()?;
            // A team that the key may not name tells it nothing.
            compiled?;
            let (team, _) = self.objects.team(namespace.as_deref().unwrap_or(&meta.namespace), name)?;
            team.spec.key_defaults.budget.as_ref()
        };
        if let (Some(_), Some(active)) = (compiled, statements.last_mut())
            && active.is_true()
        {
            let binding = self.index.budgets_of_key.get(&(&*meta.namespace, &*meta.name));
            let find = |refuses: fn(&SpendFact) -> bool| {
                binding.into_iter().flatten().find(|budget| self.spend(budget).is_some_and(|spend| refuses(&spend)))
            };
            if let Some(budget) = binding.into_iter().flatten().find(|budget| self.index.denying.contains(**budget)) {
                *active = self.denied(budget);
            } else if let Some(budget) = find(SpendFact::is_spent) {
                *active = Statement::fails(ACTIVE, "Exhausted", format!("budget `{budget}` is spent"));
            } else if let Some(budget) = find(SpendFact::is_near_limit) {
                let message = format!("less is left of budget `{budget}` than the last calls had to reserve");
                *active = Statement::fails(ACTIVE, "NearLimit", message);
            }
        }
        let has_own = budget.is_some() || !object.spec.budget_refs.is_empty();
        let terms = budget.as_ref().or_else(|| if has_own { None } else { of_team() });
        let account = match terms {
            Some(terms) => Some(Account {
                id: format!("{}/VirtualKey/{}", meta.namespace, meta.name),
                limit: text::limit(terms),
                unit: terms.unit,
                period: &terms.period,
            }),
            None => self.account_of_key(meta, &object.spec.budget_refs),
        };
        let tally = self.tally(Of::Key, &meta.namespace, &meta.name);
        let (requests, tokens) = Pass::counts(tally, look.before);
        let (spent, used_percent) = match &account {
            Some(Account { id, unit, .. }) => self.spent_of(id, *unit, look.before),
            None => (Pass::spent_this_month(tally, look.before), None),
        };
        let used = self.known.last_used.get(&(meta.namespace.clone(), meta.name.clone())).copied();
        let mut status = VirtualKeyStatus {
            observed_generation: Some(look.record.generation),
            team: Some(team_ref.as_ref().map_or_else(|| "-".to_owned(), |team| team.name.clone())),
            resets: account.as_ref().and_then(|account| self.resets(account.period)),
            limit: account.map(|account| account.limit),
            spent,
            used_percent,
            requests,
            tokens,
            last_used_at: used.max(look.before.last_used_at).map(|at| TimestampText::new(moment(at))),
            ..VirtualKeyStatus::default()
        };
        match (key_hash, known) {
            (Some(hash), _) => status.key_hash = Some(hash.clone()),
            (None, Some(known)) if is_generated => known.write_status(&mut status),
            (None, _) => status.key_hash = compiled.map(|compiled| format!("sha256:{}", compiled.hash)),
        }
        status.conditions = self.timed(statements, &look);
        self.show(look, &status, |status| &status.conditions);
    }

    /// The account that a key has for itself of a Budget `per: Key`: of the first that it names, else of the only one that
    /// binds it.
    fn account_of_key(&mut self, meta: &Meta, named: &[LocalRef]) -> Option<Account<'a>> {
        let ids = self.index.accounts_of_key.get(&(&*meta.namespace, &*meta.name))?;
        let is_named = |id: &&&str| {
            let object = budget_object(id).filter(|(namespace, _)| *namespace == meta.namespace);
            object.is_some_and(|(_, name)| named.iter().any(|reference| reference.name == name))
        };
        let id = match (ids.iter().find(is_named), ids.as_slice()) {
            (Some(named), _) => *named,
            (None, [only]) => *only,
            (None, _) => return None,
        };
        let (namespace, name) = budget_object(id)?;
        let (budget, _) = self.objects.budget(namespace, name)?;
        let limit = self.limit_now(&budget.spec);
        Some(Account { id: id.to_owned(), limit, unit: budget.spec.unit, period: &budget.spec.period })
    }

    /// LIMIT of a Budget, as long as nothing changes.
    fn limit_now(&mut self, spec: &BudgetSpec) -> String {
        let (limit, until) = text::budget_limit(spec, self.now);
        if let Some(until) = until {
            self.will_change(until);
        }
        limit
    }

    fn budget(&mut self, document: &Document, object: &Object<BudgetSpec>, mut look: Look<'a>) {
        let name = (&*object.meta.namespace, &*object.meta.name);
        let bound = self.index.keys_of_budget.get(&name).copied();
        let in_tables = bound.is_some() || is_sound(look.findings);
        let mut statements = self.common(document, &look, in_tables);
        statements.push(ready(&statements, "calls are bound by it"));
        let cause = statements[..2].iter().find(|statement| !statement.is_true());
        let members = object.spec.per.map(|_| self.members.get(&name).copied().unwrap_or_default());
        let spend = match members {
            Some(members) => Some(members.all).filter(|_| members.count > 0),
            None => self.spend(&format!("{}/Budget/{}", name.0, name.1)),
        };
        let BudgetSpec { enforcement, when_exhausted, .. } = &object.spec;
        let goes_on = *enforcement == Enforcement::Soft && when_exhausted.action == ExhaustedAction::Throttle;
        let denies = self.index.denying_objects.contains(&name);
        let fullest = members.map_or(spend, |members| spend.map(|_| members.fullest));
        statements.push(match (in_tables, cause, spend) {
            (false, Some(cause), _) => Statement::fails(AVAILABLE, &cause.reason, cause.message.clone()),
            (false, None, _) => Statement::fails(AVAILABLE, "NotInUse", "no proxy uses it"),
            (true, Some(cause), _) if denies => {
                Statement::fails(AVAILABLE, &cause.reason, format!("no call is admitted under it: {}", cause.message))
            }
            (true, None, _) if denies => Statement::fails(AVAILABLE, "Exhausted", "its limit is 0"),
            // Calls of those that have not are admitted.
            (true, _, Some(_)) if let Some(members) = members => {
                Statement::holds(AVAILABLE, AVAILABLE, members.sentence())
            }
            (true, _, Some(spend)) if spend.is_spent() && goes_on => Statement::holds(
                AVAILABLE,
                AVAILABLE,
                "what may be spent is spent; a share of the usual rate is admitted",
            ),
            (true, _, Some(spend)) if spend.is_spent() => {
                Statement::fails(AVAILABLE, "Exhausted", "what may be spent is spent")
            }
            (true, _, Some(spend)) if spend.is_near_limit() => {
                Statement::fails(AVAILABLE, "NearLimit", text::near_limit(spend, object.spec.unit))
            }
            (true, _, Some(spend)) if spend.used.saturating_add(spend.held) >= spend.limit => {
                Statement::fails(AVAILABLE, "Reserved", "calls in flight hold what is left")
            }
            (true, _, _) => Statement::holds(AVAILABLE, AVAILABLE, "calls can be admitted under it"),
        });
        let Figures { spent, used_percent, held, .. } = self.figures_of(spend, fullest, object.spec.unit, look.before);
        let status = BudgetStatus {
            observed_generation: Some(look.record.generation),
            conditions: self.timed(statements, &look),
            limit: Some(self.limit_now(&object.spec)),
            resets: self.resets(&object.spec.period),
            scope: Some(text::scope(&object.spec.applies_to)),
            keys: Some(bound.unwrap_or(0)),
            spent,
            used_percent,
            held,
            max_overshoot: Some(self.overshoot(name, object)),
            reset_token: match &look.before.reset_token {
                // Proxies do not have it.
                Some(before) if !in_tables => Some(before.to_string()),
                _ => object.spec.reset_token.clone().filter(|_| in_tables),
            },
        };
        look.happened.extend(begun_anew(&look, status.reset_token.as_deref()));
        self.show(look, &status, |status| &status.conditions);
    }

    /// The most that can be spent above the limit, over all gateways.
    fn overshoot(&self, name: (&str, &str), object: &Object<BudgetSpec>) -> String {
        let mut sum = 0i64;
        for (of, overshoots) in self.overshoots.iter().filter(|(gateway, _)| self.gateways.is_served(gateway)) {
            let GatewayName { namespace, name: gateway } = of;
            let Some(bound) = overshoots.bound(name) else { continue };
            let proxies = self.known.proxies.get(&(namespace.clone(), gateway.clone()));
            match overshoots.of(bound, proxies.map_or(1, |proxies| proxies.total.max(1))) {
                Some(most) => sum = sum.saturating_add(most),
                None => return "unbounded".to_owned(),
            }
        }
        text::amount(sum, object.spec.unit)
    }

    /// Why the tables that would hold a key are not written, where those that are there do not hold it.
    fn unpublished(&self, document: &Document, before: &Seen) -> Option<&Problem> {
        let is_known = before.condition(ACTIVE).is_some_and(|condition| {
            condition.status == ConditionStatus::True || matches!(&*condition.reason, "Exhausted" | "NearLimit")
        });
        if is_known || self.tables.values().all(|tables| tables.problem.is_none()) {
            return None;
        }
        let gateways = self.gateways.of(document).ok()?;
        gateways.iter().find_map(|gateway| self.tables.get(gateway)?.problem.as_ref())
    }

    /// `Active` of a key under a budget that lets no call through, by the id of the budget. What is wrong with it is for
    /// its owner to read.
    fn denied(&self, budget: &str) -> Statement {
        let finding = budget_object(budget).and_then(|(namespace, name)| {
            let object = ObjectRef { kind: BudgetSpec::NAME, namespace: namespace.to_owned(), name: name.to_owned() };
            self.findings(&object).iter().find(|finding| finding.severity == Severity::Error)
        });
        match finding {
            Some(finding) => {
                let message =
                    format!("budget `{budget}` cannot be used and admits no call; its own conditions say why");
                Statement::fails(ACTIVE, finding.reason, message)
            }
            None => Statement::fails(ACTIVE, "Exhausted", format!("budget `{budget}` admits no call")),
        }
    }

    /// Where a budget stands, by its id; `None`: nobody has used it yet.
    pub(super) fn spend(&self, budget: &str) -> Option<SpendFact> {
        self.known.spend.values().find_map(|budgets| budgets.get(budget)).copied()
    }

    /// Conditions of an object that never could be read; nothing else is known of it.
    pub(super) fn show_unreadable(&mut self, object: &ObjectRef, record: &'a Record, common: Common<'_>) {
        /// The part that all kinds have.
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct OnlyConditions {
            observed_generation: Option<i64>,
            conditions: Vec<Condition>,
        }
        let mut statements = common.statements().to_vec();
        statements.push(ready(&statements, ""));
        let before = self.before(object, record);
        let status = OnlyConditions {
            observed_generation: Some(record.generation),
            conditions: conditions(statements, record.generation, before, &self.now_text),
        };
        let look = Look { object: object.clone(), record, findings: &[], before, happened: Vec::new() };
        self.show_one(look, &status, &status.conditions);
    }

    fn resets(&mut self, period: &Period) -> Option<String> {
        let (text, at) = text::resets(period, self.timestamp)?;
        self.will_change(at);
        Some(text)
    }

    fn timed(&self, statements: Vec<Statement>, look: &Look<'a>) -> Vec<Condition> {
        conditions(statements, look.record.generation, look.before, &self.now_text)
    }

    fn show<S: Serialize>(&mut self, look: Look<'a>, status: &S, of: impl Fn(&S) -> &Vec<Condition>) {
        self.show_one(look, status, of(status));
    }

    /// How soon a status is wanted in which more than figures moved.
    fn urgency(&self, object: &ObjectRef, record: &Record) -> Urgency {
        let shown = record.seen.generation;
        let is_edited = record.round > self.term.since;
        // Edited while nobody led.
        let is_behind = shown.is_some_and(|shown| shown != record.generation);
        match shown {
            _ if object.kind == LLMGatewaySpec::NAME || is_behind => Urgency::Edited,
            Some(_) if is_edited => Urgency::Edited,
            None if is_edited => Urgency::Created,
            Some(_) if !self.term.first => Urgency::Usual,
            Some(_) | None => Urgency::Backlog,
        }
    }

    /// Wants the status where it differs from what is there.
    fn show_one<S: Serialize>(&mut self, look: Look<'_>, status: &S, conditions: &[Condition]) {
        let Look { object, record, findings: _, before, happened } = look;
        let digest = digest(status);
        if digest == before.digest {
            return;
        }
        let mut events = events(&object, record, before, conditions);
        events.extend(happened);
        let status = serde_json::to_value(status).expect("statuses are made of what JSON has");
        let solid = solid(&status);
        let urgency = if solid == before.solid { Urgency::Figures } else { self.urgency(&object, record) };
        let seen = Seen {
            digest,
            solid,
            generation: Some(record.generation),
            conditions: conditions.iter().map(SeenCondition::of).collect(),
            reset_token: text_of(&status, "resetToken"),
            ..before.clone()
        };
        self.shown.statuses.push(Wanted {
            object,
            uid: record.uid.clone(),
            resource_version: record.resource_version.clone(),
            status,
            seen,
            urgency,
            events,
        });
    }
}

/// Whether the operator's allocator serves the budgets of a gateway in time.
fn capacity(fact: AllocationFact) -> Statement {
    let AllocationFact { is_degraded, is_full, is_elsewhere, is_unreached } = fact;
    if is_unreached {
        let message = format!(
            "what budgets have spent is in the Redis that spec.stores.redis named, and cannot be brought from there (the \
             operator's log says why): hard budgets get no allowance. Keep its Secret, or give the gateway the annotation \
             {ABANDON_ANNOTATION} with the name of the Secret, so that all budgets begin anew"
        );
        return Statement::fails(WITHIN_CAPACITY, "BooksUnreached", message);
    }
    if is_elsewhere {
        let message = "budgets are counted in Redis until every proxy was started again: keep its Secret until then";
        return Statement::holds(WITHIN_CAPACITY, WITHIN_CAPACITY, message);
    }
    let message = match (is_full, is_degraded) {
        (true, _) => {
            "the books of budgets are full: budgets that nobody used yet are refused; name a Redis in spec.stores.redis"
                .to_owned()
        }
        (false, true) => format!(
            "more than {CEILING} accounts of budgets are in use, and allowance may come late; name a Redis in \
             spec.stores.redis"
        ),
        (false, false) => {
            return Statement::holds(WITHIN_CAPACITY, WITHIN_CAPACITY, "allowance for budgets is handed out in time");
        }
    };
    Statement::fails(WITHIN_CAPACITY, "Degraded", message)
}

fn holds(it: bool) -> ConditionStatus {
    if it { ConditionStatus::True } else { ConditionStatus::False }
}

/// Where a key is generated, nothing else is said of this field.
fn is_of_key_to_come(finding: &Finding) -> bool {
    finding.reason == Reason::NotFound && finding.field == "spec.secret"
}

fn not_probed() -> Statement {
    Statement::unknown(READY, "NotProbed", "no proxy has probed it yet")
}

/// The period of a budget began anew because its `resetToken` is another than the one that was acted on before.
fn begun_anew(look: &Look<'_>, token: Option<&str>) -> Option<Event> {
    let Look { object, record, before, .. } = look;
    let was = before.reset_token.as_deref();
    // What was not written down before this field was is no news, nor is one that a Budget is made with.
    let is_known = was.is_some() || before.generation.is_some_and(|generation| generation != record.generation);
    if token == was || !is_known {
        return None;
    }
    let note = match token {
        Some(token) => format!("its period began again from zero: spec.resetToken is `{token}`"),
        None => "its period began again: spec.resetToken was taken away, what was spent without one counts".to_owned(),
    };
    Some(Event {
        object: object.clone(),
        uid: record.uid.clone(),
        warning: false,
        reason: "Reset".to_owned(),
        // One reset after another is not one Event with a count.
        action: format!("Reset{}", record.generation),
        note,
    })
}

/// What is worth an Event: a condition that turned. What only waits for proxies is not.
fn events(object: &ObjectRef, record: &Record, before: &Seen, now: &[Condition]) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in now {
        let Condition { type_, status, reason, message, .. } = condition;
        if matches!(reason.as_str(), "Pending" | "NoProxies" | "NotProbed") || *type_ == PROGRAMMED {
            continue;
        }
        let was = before.condition(type_);
        let turned = match (was, status) {
            // Of what is new only what is wrong is worth saying.
            (None, status) => *status == ConditionStatus::False,
            // What nobody knows has not happened.
            (Some(_), ConditionStatus::Unknown) => false,
            (Some(was), ConditionStatus::False) => was.status != *status || *was.reason != **reason,
            // That nobody had looked yet was no news.
            (Some(was), ConditionStatus::True) if *type_ == ACCEPTED => was.status == ConditionStatus::False,
            (Some(was), status) => was.status != *status,
        };
        // The summary repeats what another condition says.
        let repeats = *type_ == READY && now.iter().any(|other| other.type_ != *type_ && other.reason == *reason);
        if turned && !repeats {
            events.push(Event {
                object: object.clone(),
                uid: record.uid.clone(),
                warning: *status == ConditionStatus::False && *type_ != ACTIVE,
                reason: reason.clone(),
                action: "Reconcile".to_owned(),
                note: message.clone(),
            });
        }
    }
    events
}
