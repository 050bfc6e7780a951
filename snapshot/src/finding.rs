//! What `compile` has to say about an object: an error (the object, or the part named, is not used) or a warning (it is
//! used, but not as its writer may think). Findings become conditions and Events in a cluster, lines of `tollgate
//! check` and log lines standalone.

use serde::Serialize;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// The object, or the part that `field` names, is not in use.
    Error,
    /// In use; something about it is worth knowing.
    Warning,
}

/// Stable, CamelCase in conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Reason {
    /// The document is not valid YAML, or not of the shape of its kind.
    Malformed,
    /// A field that the kind does not have.
    UnknownField,
    /// A value that the field does not take.
    InvalidValue,
    /// A field or value that this version does not act on yet.
    NotSupportedYet,
    /// Two fields that exclude each other, or neither of two of which one is needed.
    ExactlyOne,
    /// A reference to an object that does not exist.
    NotFound,
    /// A reference to an object whose owner does not allow it.
    NotGranted,
    /// An object that no gateway takes: there is none, or none admits its namespace.
    NotAttached,
    /// A Secret without the key that is named.
    SecretKeyMissing,
    /// A Secret that may not be read: a RoleBinding is missing.
    SecretForbidden,
    /// A Secret that could not be read yet.
    SecretUnread,
    /// A variable of a Secret document that the environment does not have, or one in a cluster, where none is filled in.
    VariableMissing,
    UnknownProvider,
    /// A provider without a default address, and none given.
    EndpointMissing,
    /// An address that may not be called.
    HostNotAllowed,
    /// The credential may not be sent to this host.
    CredentialHostNotAllowed,
    /// No price is known for the model.
    PriceUnknown,
    /// Another object has the same name, hash or key.
    Duplicate,
    /// References that lead back to their beginning.
    Cycle,
    /// A key that may ask for no model at all.
    NoModels,
    /// A short or guessable key.
    WeakKey,
    /// A name that another object hides.
    Shadowed,
    /// A target that no request can reach, or a change of prices that no deployment takes.
    Unreachable,
    /// A child's limit above its parent's.
    AboveParent,
    /// A key under more budgets than its calls can be held in.
    TooManyBudgets,
    /// The object was refused and its last good state stays in use.
    LastGoodKept,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One thing to know about one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub object: ObjectRef,
    pub severity: Severity,
    pub reason: Reason,
    /// Path from the document's root, like `spec.targets[1].weight`; empty: the whole object.
    pub field: String,
    /// Lower case, no full stop, says what and which object.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Finding {
    pub fn error(object: &ObjectRef, reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding {
            object: object.clone(),
            severity: Severity::Error,
            reason,
            field: field.into(),
            message: message.into(),
            hint: String::new(),
        }
    }

    pub fn warning(
        object: &ObjectRef,
        reason: Reason,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Warning, ..Finding::error(object, reason, field, message) }
    }

    /// The same, with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = hint.into();
        self
    }
}
