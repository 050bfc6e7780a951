//! Where findings are collected. A [`Subject`] borrows the names of an object, so that an object without findings costs
//! nothing.

use super::input::{Kind, Object};
use crate::finding::{Finding, ObjectRef, Reason};

/// The object that is being looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub kind: &'static str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Subject<'_> {
    fn object_ref(self) -> ObjectRef {
        ObjectRef { kind: self.kind, namespace: self.namespace.to_owned(), name: self.name.to_owned() }
    }
}

impl<S: Kind> Object<S> {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { kind: S::NAME, namespace: &self.meta.namespace, name: &self.meta.name }
    }
}

/// All findings so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// The part that `field` names is not used. The hint may be set on what is returned.
    pub fn error(
        &mut self,
        subject: Subject<'_>,
        reason: Reason,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.push(Finding::error(&subject.object_ref(), reason, field, message))
    }

    /// It is used, and something about it is worth knowing.
    pub fn warning(
        &mut self,
        subject: Subject<'_>,
        reason: Reason,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.push(Finding::warning(&subject.object_ref(), reason, field, message))
    }

    /// A field that is read and changes nothing in this version.
    pub fn not_yet(&mut self, subject: Subject<'_>, field: impl Into<String>, message: impl Into<String>) {
        self.warning(subject, Reason::NotSupportedYet, field, message);
    }

    /// The last good state of the object, or of the part that `field` names, is used instead of what is written.
    pub fn last_good(&mut self, subject: Subject<'_>, field: impl Into<String>) {
        self.warning(
            subject,
            Reason::LastGoodKept,
            field,
            "what is written cannot be used; the last good state stays in use",
        );
    }

    /// Drops findings about Teams and Budgets that are not `wanted`: another gateway has the same to say of them. Other
    /// kinds are looked at only where they belong.
    pub fn retain(&mut self, wanted: impl Fn(Subject<'_>) -> bool) {
        self.findings.retain(|finding| {
            let ObjectRef { kind, namespace, name } = &finding.object;
            !matches!(*kind, "Team" | "Budget") || wanted(Subject { kind, namespace, name })
        });
    }

    /// How many there are so far.
    pub fn len(&self) -> usize {
        self.findings.len()
    }

    /// In an order that does not depend on that of the documents.
    pub fn into_findings(mut self) -> Vec<Finding> {
        self.findings.sort_by(|a, b| {
            let key = |finding: &Finding| (finding.severity, finding.reason);
            (&a.object, &a.field, key(a), &a.message).cmp(&(&b.object, &b.field, key(b), &b.message))
        });
        self.findings.dedup();
        self.findings
    }

    fn push(&mut self, finding: Finding) -> &mut Finding {
        self.findings.push(finding);
        self.findings.last_mut().expect("one was pushed just now")
    }
}
