//! Conditions: from what is known of an object to `Accepted`, `ResolvedRefs`, `Programmed` and `Ready`. Pure; every reason
//! that users see is in this folder.

use tollgate_crds::{Condition, ConditionStatus, TimestampText};
use tollgate_snapshot::{Finding, Reason, Severity};

use crate::facts::Problem;
use crate::world::Seen;

pub const ACCEPTED: &str = "Accepted";
pub const RESOLVED_REFS: &str = "ResolvedRefs";
pub const PROGRAMMED: &str = "Programmed";
pub const READY: &str = "Ready";
pub const ACTIVE: &str = "Active";
pub const AVAILABLE: &str = "Available";
pub const WITHIN_CAPACITY: &str = "WithinCapacity";

/// Longer messages are cut; the schema allows four times as much.
const LONGEST: usize = 1_024;

/// One statement, before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub type_: &'static str,
    pub status: ConditionStatus,
    /// CamelCase.
    pub reason: String,
    pub message: String,
}

impl Statement {
    pub fn new(
        type_: &'static str,
        status: ConditionStatus,
        reason: impl ToString,
        message: impl Into<String>,
    ) -> Statement {
        Statement { type_, status, reason: reason.to_string(), message: message.into() }
    }

    pub fn holds(type_: &'static str, reason: impl ToString, message: impl Into<String>) -> Statement {
        Statement::new(type_, ConditionStatus::True, reason, message)
    }

    pub fn fails(type_: &'static str, reason: impl ToString, message: impl Into<String>) -> Statement {
        Statement::new(type_, ConditionStatus::False, reason, message)
    }

    pub fn unknown(type_: &'static str, reason: impl ToString, message: impl Into<String>) -> Statement {
        Statement::new(type_, ConditionStatus::Unknown, reason, message)
    }

    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// Whether the proxies run an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Running {
    /// Every ready one does.
    Everywhere,
    /// They do not all yet; in a few words.
    Pending(String),
    /// It is not in the tables.
    NotInUse,
    /// There is no ready proxy.
    NoProxies,
    /// The tables are not written.
    NotPublished(Problem),
    /// A proxy says that it cannot use the tables.
    Refused(String),
}

/// What `Accepted`, `ResolvedRefs` and `Programmed` come from.
#[derive(Clone, Debug)]
pub struct Common<'a> {
    pub findings: &'a [Finding],
    pub running: Running,
}

/// Whether what a finding is about is a reference.
fn is_reference(finding: &Finding) -> bool {
    let is_attachment = matches!(finding.field.as_str(), "spec.gatewayRef" | "metadata.namespace");
    match finding.reason {
        Reason::NotFound | Reason::NotGranted => !is_attachment,
        Reason::SecretKeyMissing | Reason::SecretForbidden | Reason::SecretUnread => true,
        _ => false,
    }
}

impl Common<'_> {
    /// `Accepted`, `ResolvedRefs`, `Programmed`.
    pub fn statements(&self) -> [Statement; 3] {
        let errors = || self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let accepted = match errors().find(|finding| !is_reference(finding)) {
            Some(first) => {
                let others = errors().filter(|finding| !is_reference(finding)).count() - 1;
                Statement::fails(ACCEPTED, first.reason, text(first, others))
            }
            None => self.accepted(),
        };
        let resolved = match errors().find(|finding| is_reference(finding)) {
            Some(first) => {
                let others = errors().filter(|finding| is_reference(finding)).count() - 1;
                Statement::fails(RESOLVED_REFS, first.reason, text(first, others))
            }
            None => Statement::holds(RESOLVED_REFS, RESOLVED_REFS, "everything that it names is there"),
        };
        let programmed = self.programmed(&accepted, &resolved);
        [accepted, resolved, programmed]
    }

    /// Warnings do not keep anything from working, so they stand where nobody is alarmed by them.
    fn accepted(&self) -> Statement {
        let mut warnings = self.findings.iter().filter(|finding| finding.severity == Severity::Warning);
        match warnings.next() {
            None => Statement::holds(ACCEPTED, ACCEPTED, "valid"),
            Some(first) => {
                Statement::holds(ACCEPTED, ACCEPTED, format!("valid, but {}", text(first, warnings.count())))
            }
        }
    }

    fn programmed(&self, accepted: &Statement, resolved: &Statement) -> Statement {
        let kept = self.findings.iter().find(|finding| finding.reason == Reason::LastGoodKept);
        match &self.running {
            Running::NotPublished(problem) => {
                Statement::fails(PROGRAMMED, problem.reason, format!("the tables are not written: {}", problem.message))
            }
            Running::NotInUse => {
                let cause = [accepted, resolved].into_iter().find(|statement| !statement.is_true());
                let message = match cause {
                    Some(cause) => format!("no proxy uses it: {}", cause.message),
                    None => "no proxy uses it".to_owned(),
                };
                Statement::fails(PROGRAMMED, "NotInUse", message)
            }
            Running::Refused(message) => Statement::fails(PROGRAMMED, "ProxyRefused", message.clone()),
            Running::Pending(message) => Statement::fails(PROGRAMMED, "Pending", message.clone()),
            Running::NoProxies => Statement::unknown(PROGRAMMED, "NoProxies", "no proxy is ready to run it"),
            Running::Everywhere if kept.is_some() => {
                let message = "every ready proxy runs its last good state, not what is written";
                Statement::fails(PROGRAMMED, Reason::LastGoodKept, message)
            }
            Running::Everywhere => Statement::holds(PROGRAMMED, PROGRAMMED, "every ready proxy runs it"),
        }
    }
}

/// `Ready`: the first of the statements that is not true decides.
pub fn ready(statements: &[Statement], message: &str) -> Statement {
    let failing = statements.iter().find(|statement| statement.status == ConditionStatus::False);
    let failing = failing.or_else(|| statements.iter().find(|statement| !statement.is_true()));
    match failing {
        Some(Statement { type_: _, status, reason, message }) => {
            Statement::new(READY, *status, reason, message.clone())
        }
        None => Statement::holds(READY, READY, message),
    }
}

fn text(finding: &Finding, others: usize) -> String {
    let Finding { field, message, hint, .. } = finding;
    let mut text = if field.is_empty() { message.clone() } else { format!("{field}: {message}") };
    if !hint.is_empty() {
        text.push_str(&format!(" ({hint})"));
    }
    if others > 0 {
        text.push_str(&format!("; and {others} more"));
    }
    text
}

/// With times: a condition keeps its own as long as its status stays.
pub fn conditions(statements: Vec<Statement>, generation: i64, seen: &Seen, now: &TimestampText) -> Vec<Condition> {
    let condition = |Statement { type_, status, reason, mut message }: Statement| {
        if message.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
        }
        // Tools print one line.
        if message.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
            message = message.replace(['\n', '\r'], " ");
        }
        let before = seen.condition(type_).filter(|before| before.status == status);
        Condition {
            type_: type_.to_owned(),
            status,
            observed_generation: Some(generation),
            last_transition_time: before.map_or_else(|| now.clone(), |before| before.since.clone()),
            reason,
            message,
        }
    };
    statements.into_iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use tollgate_snapshot::ObjectRef;

    use super::*;
    use crate::world::SeenCondition;

    fn finding(severity: Severity, reason: Reason, field: &str) -> Finding {
        let object = ObjectRef { kind: "ModelDeployment", namespace: "n".into(), name: "o".into() };
        let finding = Finding::error(&object, reason, field, "it is so").hint("do that");
        Finding { severity, ..finding }
    }

    fn summary(statements: &[Statement]) -> Vec<(ConditionStatus, &str)> {
        statements.iter().map(|statement| (statement.status, statement.reason.as_str())).collect()
    }

    fn states(findings: &[Finding], running: Running) -> Vec<(ConditionStatus, String)> {
        let mut statements = Common { findings, running }.statements().to_vec();
        statements.push(ready(&statements, "works"));
        summary(&statements).into_iter().map(|(status, reason)| (status, reason.to_owned())).collect()
    }

    /// Each reason once: what is found, whether it runs, and the four conditions.
    #[test]
    fn every_reason_has_its_conditions() {
        use ConditionStatus::{False, True, Unknown};
        use Severity::{Error, Warning};
        let fine = (True, "Accepted");
        let resolved = (True, "ResolvedRefs");
        let programmed = (True, "Programmed");
        let not_used = (False, "NotInUse");
        let everywhere = || Running::Everywhere;

        let accepted_reasons = [
            Reason::Malformed,
            Reason::UnknownField,
            Reason::InvalidValue,
            Reason::NotSupportedYet,
            Reason::ExactlyOne,
            Reason::NotAttached,
            Reason::VariableMissing,
            Reason::UnknownProvider,
            Reason::EndpointMissing,
            Reason::HostNotAllowed,
            Reason::CredentialHostNotAllowed,
            Reason::PriceUnknown,
            Reason::Duplicate,
            Reason::Cycle,
            Reason::NoModels,
            Reason::WeakKey,
            Reason::Shadowed,
            Reason::Unreachable,
            Reason::AboveParent,
            Reason::TooManyBudgets,
        ];
        for reason in accepted_reasons {
            let text = reason.to_string();
            let refused = (False, text.as_str());
            let conditions = states(&[finding(Error, reason, "spec")], Running::NotInUse);
            assert_eq!(conditions, owned([refused, resolved, not_used, refused]), "{reason}");
            let conditions = states(&[finding(Warning, reason, "spec")], everywhere());
            assert_eq!(conditions, owned([fine, resolved, programmed, (True, "Ready")]), "{reason} as a warning");
        }
        let references = [
            Reason::NotFound,
            Reason::NotGranted,
            Reason::SecretKeyMissing,
            Reason::SecretForbidden,
            Reason::SecretUnread,
        ];
        for reason in references {
            let text = reason.to_string();
            let dangling = (False, text.as_str());
            let conditions = states(&[finding(Error, reason, "spec.credential")], Running::NotInUse);
            assert_eq!(conditions, owned([fine, dangling, not_used, dangling]), "{reason}");
        }
        for reason in [Reason::NotFound, Reason::NotGranted] {
            let text = reason.to_string();
            let refused = (False, text.as_str());
            let conditions = states(&[finding(Error, reason, "spec.gatewayRef")], Running::NotInUse);
            assert_eq!(conditions, owned([refused, resolved, not_used, refused]), "{reason} of the gateway");
        }
        let kept = [finding(Error, Reason::InvalidValue, "spec.weight"), finding(Warning, Reason::LastGoodKept, "")];
        let refused = (False, "InvalidValue");
        assert_eq!(states(&kept, everywhere()), owned([refused, resolved, (False, "LastGoodKept"), refused]));

        let problem = Problem { reason: "Forbidden", message: "no".into() };
        let runs = [
            (Running::Everywhere, programmed, (True, "Ready")),
            (Running::Pending("1 of 2".into()), (False, "Pending"), (False, "Pending")),
            (Running::NotInUse, not_used, not_used),
            (Running::NoProxies, (Unknown, "NoProxies"), (Unknown, "NoProxies")),
            (Running::NotPublished(problem), (False, "Forbidden"), (False, "Forbidden")),
            (Running::Refused("p".into()), (False, "ProxyRefused"), (False, "ProxyRefused")),
        ];
        for (running, programmed, summary) in runs {
            assert_eq!(states(&[], running.clone()), owned([fine, resolved, programmed, summary]), "{running:?}");
        }
    }

    fn owned<const N: usize>(states: [(ConditionStatus, &str); N]) -> Vec<(ConditionStatus, String)> {
        states.map(|(status, reason)| (status, reason.to_owned())).to_vec()
    }

    #[test]
    fn messages_say_field_and_advice_and_how_many_more() {
        let errors = [
            finding(Severity::Error, Reason::InvalidValue, "spec.a"),
            finding(Severity::Error, Reason::InvalidValue, "spec.b"),
        ];
        let [accepted, ..] = Common { findings: &errors, running: Running::NotInUse }.statements();
        assert_eq!(accepted.message, "spec.a: it is so (do that); and 1 more");
    }

    #[test]
    fn a_condition_keeps_its_time_as_long_as_its_status_stays() {
        let now = TimestampText::new("2026-01-02T00:00:00Z");
        let since = TimestampText::new("2026-01-01T00:00:00Z");
        let seen = SeenCondition {
            type_: READY.into(),
            status: ConditionStatus::True,
            reason: "Other".into(),
            since: since.clone(),
        };
        let seen = Seen { conditions: vec![seen], ..Seen::default() };
        let time = |statement| conditions(vec![statement], 1, &seen, &now)[0].last_transition_time.clone();
        assert_eq!(time(Statement::holds(READY, "Ready", "")), since);
        assert_eq!(time(Statement::fails(READY, "Pending", "")), now);
        assert_eq!(time(Statement::holds(ACCEPTED, "Accepted", "")), now);
    }

    #[test]
    fn messages_are_one_line_and_not_too_long() {
        let long = format!("a\nb{}", "ü".repeat(LONGEST));
        let now = TimestampText::new("2026-01-02T00:00:00Z");
        let conditions = conditions(vec![Statement::holds(READY, READY, long)], 1, &Seen::default(), &now);
        assert!(conditions[0].message.starts_with("a b"));
        assert!(conditions[0].message.len() <= LONGEST);
    }
}
