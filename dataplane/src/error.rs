//! All that can go wrong with a call, in one type that answers four questions: which status, which code, whose fault,
//! may the client try again. Rendered once, in the client's dialect, by [`crate::reply`]. Texts are for the caller:
//! safe, without secrets, with what to do.

use std::time::Duration;

use tollgate_dialects::error::ErrorKind;

use crate::limits::{LimitScope, LimitType};

pub type Result<T> = std::result::Result<T, Box<GatewayError>>;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Client,
    Gateway,
    Upstream,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub enum GatewayError {
    RouteNotFound,
    MethodNotAllowed,
    KeyMissing,
    KeyUnknown,
    KeyDisabled,
    /// When it expired, as text.
    KeyExpired {
        at: String,
    },
    TeamBlocked {
        team: String,
    },
    AdminOnly,
    /// The head can be read in more than one way. `reason`: what it does.
    HeadRefused {
        reason: &'static str,
    },
    /// The body is not what the operation takes. `param`: the field, or `request_body`.
    BadRequest {
        param: String,
        message: String,
    },
    BodyTooLarge {
        limit_bytes: usize,
    },
    BodyTimeout,
    BodyBroken,
    EncodingUnsupported {
        encoding: String,
    },
    /// A parameter that clients may not set.
    ParameterRefused {
        param: String,
    },
    ModelMissing,
    ModelUnknown {
        model: String,
    },
    ModelNotAllowed {
        model: String,
        scope: Scope,
        name: String,
    },
    /// `GET /v1/models/{id}` of a name that the key may not see.
    ModelNotListed {
        model: String,
    },
    /// No target of the route takes this call.
    NoTarget {
        model: String,
    },
    OperationUnsupported {
        model: String,
        operation: &'static str,
    },
    RateLimited {
        scope: LimitScope,
        value: String,
        limit_type: LimitType,
        limit: u64,
        remaining: u64,
        resets_in: u64,
        /// Only this proxy's share is used up.
        of_share: bool,
    },
    /// Every deployment is at its own limits.
    DeploymentsFull {
        model: String,
        limit_type: LimitType,
        resets_in: u64,
    },
    BudgetExhausted {
        budget: String,
        standing: Option<Standing>,
        resets_at: Option<i64>,
        rest: Rest,
        status: u16,
    },
    /// A stream under way, for whose next words some budget has nothing left.
    BudgetEnded {
        budget: String,
        standing: Option<Standing>,
        resets_at: Option<i64>,
        /// There would be enough if other calls did not hold it.
        is_reserved: bool,
    },
    BudgetReserved {
        budget: String,
        standing: Option<Standing>,
    },
    /// A Soft budget that is spent, and goes on slowly.
    BudgetThrottled {
        budget: String,
        standing: Option<Standing>,
        retry_after: u64,
    },
    BudgetUnavailable {
        budget: String,
    },
    /// A budget with one for each member has no room for another member.
    BudgetFull {
        budget: String,
    },
    PriceUnknown {
        model: String,
    },
    /// The worst case of the call cannot be bounded, so a Hard budget cannot promise its cap.
    CostUnbounded {
        reason: String,
    },
    Overloaded {
        reason: &'static str,
    },
    Draining,
    AllCoolingDown {
        model: String,
        deployments: Vec<String>,
        retry_after: u64,
    },
    /// An error answer of the provider.
    Upstream(Box<UpstreamFailure>),
    UpstreamConnect {
        deployment: String,
        attempts: u32,
    },
    UpstreamTimeout {
        deployment: String,
        attempts: u32,
        after: Duration,
    },
    UpstreamBroken {
        deployment: String,
        attempts: u32,
        reason: &'static str,
    },
    Internal {
        reason: &'static str,
    },
}

/// How a budget stands, in amounts as people read them. Errors have none where a budget counts what other tenants spend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub spent: String,
    pub held: String,
    pub limit: String,
}

/// What a budget has for a call that it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    /// Amounts as people read them: what the call had to reserve, and what is left, where that is told.
    TooLittle {
        asked: String,
        left: Option<String>,
    },
    /// What is written cannot be used, and is hard: nothing may be spent under it.
    Denied,
}

/// Who does not allow a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Key,
    Team,
}

/// What a provider answered.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamFailure {
    pub status: u16,
    pub kind: ErrorKind,
    pub message: String,
    pub param: Option<String>,
    pub deployment: String,
    pub attempts: u32,
    /// As clients get them: `llm_provider-*`.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

/// What a client is told besides the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub status: u16,
    /// `error.type` of OpenAI's shape, as LiteLLM names it.
    pub error_type: &'static str,
    /// Stable word for programs, in `x-tollgate-error`.
    pub code: &'static str,
    pub fault: Fault,
    /// `x-should-retry`; `None`: the client's own rule.
    pub retry: Option<bool>,
}

impl GatewayError {
    /// The four answers.
    pub fn facts(&self) -> Facts {
        use GatewayError::*;
        let (status, error_type, code, fault, retry) = match self {
            RouteNotFound => (404, "not_found_error", "route_not_found", Fault::Client, None),
            MethodNotAllowed => (405, "invalid_request_error", "method_not_allowed", Fault::Client, None),
            KeyMissing => (401, "auth_error", "key_missing", Fault::Client, None),
            KeyUnknown => (401, "token_not_found_in_db", "key_unknown", Fault::Client, None),
            KeyDisabled => (401, "auth_error", "key_disabled", Fault::Client, None),
            KeyExpired { .. } => (401, "expired_key", "key_expired", Fault::Client, None),
            TeamBlocked { .. } => (401, "auth_error", "team_blocked", Fault::Client, None),
            AdminOnly => (403, "permission_error", "admin_only", Fault::Client, None),
            HeadRefused { .. } => (400, "invalid_request_error", "head_refused", Fault::Client, None),
            BadRequest { .. } => (400, "invalid_request_error", "bad_request", Fault::Client, None),
            BodyTooLarge { .. } => (413, "invalid_request_error", "body_too_large", Fault::Client, Some(false)),
            BodyTimeout => (408, "timeout_error", "body_timeout", Fault::Client, Some(false)),
            BodyBroken => (400, "invalid_request_error", "body_broken", Fault::Client, None),
            EncodingUnsupported { .. } => (415, "invalid_request_error", "encoding_unsupported", Fault::Client, None),
            ParameterRefused { .. } => (400, "invalid_request_error", "parameter_refused", Fault::Client, None),
            ModelMissing => (400, "invalid_request_error", "model_missing", Fault::Client, None),
            ModelUnknown { .. } => (400, "invalid_request_error", "model_not_found", Fault::Client, None),
            ModelNotAllowed { scope: Scope::Key, .. } => {
                (403, "key_model_access_denied", "model_not_allowed", Fault::Client, None)
            }
            ModelNotAllowed { scope: Scope::Team, .. } => {
                (403, "team_model_access_denied", "model_not_allowed", Fault::Client, None)
            }
            ModelNotListed { .. } => (404, "not_found_error", "model_not_found", Fault::Client, None),
            NoTarget { .. } => (400, "invalid_request_error", "no_target", Fault::Client, None),
            OperationUnsupported { .. } => (400, "invalid_request_error", "operation_unsupported", Fault::Client, None),
            RateLimited { .. } => (429, "throttling_error", "rate_limited", Fault::Client, None),
            DeploymentsFull { .. } => (429, "throttling_error", "deployments_full", Fault::Gateway, None),
            BudgetExhausted { status, .. } => {
                (*status, "budget_exceeded", "budget_exhausted", Fault::Client, Some(false))
            }
            BudgetEnded { is_reserved: true, .. } => (429, "budget_exceeded", "budget_reserved", Fault::Client, None),
            BudgetEnded { .. } => (429, "budget_exceeded", "budget_exhausted", Fault::Client, Some(false)),
            BudgetReserved { .. } => (429, "budget_exceeded", "budget_reserved", Fault::Client, None),
            BudgetThrottled { .. } => (429, "budget_exceeded", "budget_throttled", Fault::Client, None),
            BudgetUnavailable { .. } => (503, "internal_server_error", "budget_unavailable", Fault::Gateway, None),
            BudgetFull { .. } => (429, "budget_exceeded", "budget_full", Fault::Client, Some(false)),
            PriceUnknown { .. } => (403, "model_cost_map_missing", "price_unknown", Fault::Client, None),
            CostUnbounded { .. } => (403, "permission_error", "cost_unbounded", Fault::Client, None),
            Overloaded { .. } => (503, "overloaded_error", "overloaded", Fault::Gateway, None),
            Draining => (503, "overloaded_error", "draining", Fault::Gateway, None),
            AllCoolingDown { .. } => (429, "all_deployments_in_cooldown", "all_cooling_down", Fault::Upstream, None),
            GatewayError::Upstream(failure) => {
                (client_status(failure.status), failure.error_type(), "upstream_error", Fault::Upstream, None)
            }
            UpstreamConnect { .. } => (502, "internal_server_error", "upstream_connect", Fault::Upstream, None),
            UpstreamTimeout { .. } => (408, "timeout_error", "upstream_timeout", Fault::Upstream, None),
            UpstreamBroken { .. } => (502, "internal_server_error", "upstream_broken", Fault::Upstream, None),
            Internal { .. } => (500, "internal_server_error", "internal", Fault::Gateway, None),
        };
        Facts { status, error_type, code, fault, retry }
    }

    /// What kind of error it is in the words that all dialects share.
    pub fn kind(&self) -> ErrorKind {
        let facts = self.facts();
        match self {
            GatewayError::Upstream(failure) => failure.kind,
            GatewayError::ModelUnknown { .. } | GatewayError::ModelNotListed { .. } => ErrorKind::NotFound,
            GatewayError::BudgetExhausted { .. }
            | GatewayError::BudgetEnded { .. }
            | GatewayError::BudgetReserved { .. }
            | GatewayError::BudgetThrottled { .. }
            | GatewayError::BudgetFull { .. } => ErrorKind::BudgetExceeded,
            GatewayError::AllCoolingDown { .. } => ErrorKind::RateLimit,
            _ => match (facts.fault, facts.status) {
                (Fault::Gateway, 500..) => {
                    if facts.status == 503 {
                        ErrorKind::Overloaded
                    } else {
                        ErrorKind::Internal
                    }
                }
                (_, status) => ErrorKind::of_status(status),
            },
        }
    }

    /// `error.code` of OpenAI's shape where programs branch on a word; empty: the status as text.
    pub fn body_code(&self) -> &'static str {
        match self {
            GatewayError::ModelUnknown { .. }
            | GatewayError::ModelNotListed { .. }
            | GatewayError::BudgetExhausted { .. }
            | GatewayError::BudgetEnded { .. }
            | GatewayError::BudgetReserved { .. }
            | GatewayError::BudgetThrottled { .. }
            | GatewayError::BudgetUnavailable { .. }
            | GatewayError::BudgetFull { .. }
            | GatewayError::PriceUnknown { .. } => self.facts().code,
            GatewayError::Upstream(failure) if failure.kind == ErrorKind::ContextWindow => "context_length_exceeded",
            _ => "",
        }
    }

    /// `error.param` of OpenAI's shape.
    pub fn param(&self) -> Option<&str> {
        match self {
            GatewayError::BadRequest { param, .. } | GatewayError::ParameterRefused { param } => Some(param),
            GatewayError::ModelMissing | GatewayError::ModelUnknown { .. } | GatewayError::ModelNotAllowed { .. } => {
                Some("model")
            }
            GatewayError::Upstream(failure) => failure.param.as_deref(),
            _ => None,
        }
    }

    /// Seconds for `retry-after`.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            GatewayError::RateLimited { resets_in, .. } | GatewayError::DeploymentsFull { resets_in, .. } => {
                Some(*resets_in)
            }
            GatewayError::AllCoolingDown { retry_after, .. } | GatewayError::BudgetThrottled { retry_after, .. } => {
                Some(*retry_after)
            }
            GatewayError::BudgetReserved { .. } | GatewayError::BudgetUnavailable { .. } => Some(2),
            GatewayError::Overloaded { .. } | GatewayError::Draining => Some(1),
            _ => None,
        }
    }

    /// What the client reads.
    pub fn message(&self) -> String {
        use GatewayError::*;
        match self {
            RouteNotFound => "Not Found".into(),
            MethodNotAllowed => "Method Not Allowed".into(),
            KeyMissing => "Authentication Error, No api key passed in. Send it as `Authorization: Bearer sk-...`, `x-api-key` or `api-key`.".into(),
            KeyUnknown => "Authentication Error, Invalid proxy server token passed. The key is not known to this gateway.".into(),
            KeyDisabled => "Authentication Error, this key is disabled.".into(),
            KeyExpired { at } => format!("Authentication Error, Expired Key. The key expired at {at}."),
            TeamBlocked { team } => format!("Authentication Error, team `{team}` of this key is blocked."),
            AdminOnly => "This path needs the master key.".into(),
            HeadRefused { reason } => format!("The head of the request can be read in more than one way: {reason}."),
            BadRequest { message, .. } => message.clone(),
            BodyTooLarge { limit_bytes } => format!("The request body is larger than {limit_bytes} bytes."),
            BodyTimeout => "The request body came too slowly.".into(),
            BodyBroken => "The request body ended before it was complete.".into(),
            EncodingUnsupported { encoding } => format!("content-encoding `{encoding}` is not supported: send the body as it is."),
            ParameterRefused { param } => format!("`{param}` may not be set by clients of this gateway."),
            ModelMissing => "No model was named: set `model` in the body or in the path.".into(),
            ModelUnknown { model } => {
                format!("You passed in model={model}. There are no healthy deployments for this model. GET /v1/models lists what this key may call.")
            }
            ModelNotAllowed { model, scope: Scope::Key, name } => {
                format!("key not allowed to access model. This key (`{name}`) can only access the models its policy lists; tried to access `{model}`.")
            }
            ModelNotAllowed { model, scope: Scope::Team, name } => {
                format!("team not allowed to access model. Team `{name}` can only access the models its policy lists; tried to access `{model}`.")
            }
            ModelNotListed { model } => format!("The model `{model}` does not exist or is not offered to this key."),
            NoTarget { model } => format!("No deployment of model `{model}` accepts this request (its routing conditions exclude all)."),
            OperationUnsupported { model, operation } => format!("No deployment of model `{model}` supports {operation}."),
            RateLimited { scope, value, limit_type, limit, remaining, resets_in, of_share: _ } => format!(
                "Rate limit exceeded for {}: {value}. Limit type: {}. Current limit: {limit}, Remaining: {remaining}. Limit resets at: {}",
                scope.as_str(),
                limit_type.as_str(),
                utc_in(*resets_in)
            ),
            DeploymentsFull { model, limit_type, resets_in } => {
                let kind = limit_type.as_str();
                format!("All deployments of model `{model}` are at their own rate limits. Limit type: {kind}. The first is free in {resets_in} s.")
            }
            BudgetExhausted { budget, standing, resets_at, rest, status: _ } => {
                let more = match rest {
                    Rest::Nothing => reset(*resets_at),
                    Rest::TooLittle { asked, left: Some(left) } => {
                        format!(" The call had to reserve {asked}, with {left} left.{}", reset(*resets_at))
                    }
                    Rest::TooLittle { asked, left: None } => {
                        format!(" The call had to reserve {asked}, and less is left.{}", reset(*resets_at))
                    }
                    Rest::Denied => " The budget is not valid as it is written, so nothing may be spent under it.".to_owned(),
                };
                format!("Budget has been exceeded! {}Budget: `{budget}`.{more}", spent_of(standing))
            }
            BudgetEnded { budget, standing, is_reserved: true, .. } => format!(
                "The answer was ended: calls in flight hold what the budget has left for more of it. Try again when they have ended. {}Budget: `{budget}`.",
                held_of(standing)
            ),
            BudgetEnded { budget, standing, resets_at, .. } => format!(
                "The answer was ended: the budget has nothing left for more of it. {}Budget: `{budget}`.{}",
                held_of(standing),
                reset(*resets_at)
            ),
            BudgetReserved { budget, standing: Some(Standing { held, limit, .. }) } => {
                format!("Budget `{budget}` ({limit}) is reserved by calls in flight ({held} held). Try again when they have ended.")
            }
            BudgetReserved { budget, standing: None } => {
                format!("Budget `{budget}` is reserved by calls in flight. Try again when they have ended.")
            }
            BudgetUnavailable { budget } => format!("Budget `{budget}` cannot be checked right now, and calls must not go on without."),
            BudgetThrottled { budget, standing, retry_after } => format!(
                "Budget has been exceeded! {}Budget: `{budget}`. It goes on slowly: try again in {retry_after} s.",
                spent_of(standing)
            ),
            BudgetFull { budget } => format!(
                "Budget `{budget}` counts apart for more names than it has room for in this period; calls that bring a new one are refused."
            ),
            PriceUnknown { model } => format!(
                "No price is known for model `{model}`, and a budget or this gateway requires one. Set `spec.pricing` on its ModelDeployment."
            ),
            CostUnbounded { reason } => format!("The most this call can cost is not known ({reason}), and a hard budget requires it."),
            Overloaded { reason } => format!("The gateway is at its limit of {reason}."),
            Draining => "The gateway is shutting down.".into(),
            AllCoolingDown { model, deployments, retry_after } => format!(
                "No deployments available for selected model, Try again in {retry_after} seconds. Passed model={model}. cooldown_list=[{}]",
                deployments.join(", ")
            ),
            Upstream(failure) => {
                let tries = if failure.attempts == 1 { "try" } else { "tries" };
                format!("{} (deployment `{}`, {} {tries})", failure.message, failure.deployment, failure.attempts)
            }
            UpstreamConnect { deployment, attempts } => format!("No connection to deployment `{deployment}` ({attempts} attempts)."),
            UpstreamTimeout { deployment, attempts, after } => {
                format!("Deployment `{deployment}` did not answer within {:.1} s ({attempts} attempts).", after.as_secs_f64())
            }
            UpstreamBroken { deployment, attempts, reason } => format!("Deployment `{deployment}` {reason} ({attempts} attempts)."),
            Internal { reason } => format!("Internal error: {reason}."),
        }
    }
}

impl UpstreamFailure {
    fn error_type(&self) -> &'static str {
        match (self.kind, self.status) {
            (ErrorKind::ContextWindow | ErrorKind::ContentPolicy, _) => "invalid_request_error",
            (_, 401) => "authentication_error",
            (_, 403) => "permission_error",
            (_, 408 | 504) => "timeout_error",
            (_, 429) => "throttling_error",
            (_, 400..=499) => "invalid_request_error",
            _ => "internal_server_error",
        }
    }
}

/// A provider's status as clients get it: the same, but that a redirect or an unknown class is a bad gateway.
fn client_status(status: u16) -> u16 {
    if (400..=599).contains(&status) { status } else { 502 }
}

/// What is spent of what, with a space behind it.
fn spent_of(standing: &Option<Standing>) -> String {
    let Some(Standing { spent, limit, .. }) = standing else { return String::new() };
    format!("Current cost: {spent}, Max budget: {limit}. ")
}

fn held_of(standing: &Option<Standing>) -> String {
    let Some(Standing { spent, held, limit }) = standing else { return String::new() };
    format!("Current cost: {spent}, held by calls in flight: {held}, Max budget: {limit}. ")
}

fn reset(at: Option<i64>) -> String {
    match at {
        Some(at) => format!(" It resets at {}.", utc(at)),
        None => " It does not reset.".to_owned(),
    }
}

fn utc(at: i64) -> String {
    match jiff::Timestamp::from_second(at) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "an unknown time".to_owned(),
    }
}

/// The time in so many seconds, as LiteLLM writes it.
pub fn utc_in(seconds: u64) -> String {
    utc(jiff::Timestamp::now().as_second().saturating_add(seconds as i64))
}
