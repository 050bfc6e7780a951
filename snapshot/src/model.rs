//! The compiled snapshot: everything a proxy knows, resolved to indices, ready to be written to ConfigMaps or used in
//! memory. Pure data without secrets: credentials travel beside it ([`Credential`]), keys are hashes. Made only by
//! [`crate::compile`]; the data plane builds its lookup tables from it and never changes it.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tollgate_dialects::Dialect;

use crate::price::PriceSheet;

mod budget;

pub(crate) use budget::KnownRules;
pub use budget::{Boost, Budget, BudgetRules, BudgetUnit, CalendarUnit, PerCall, Period, Threshold, WhenLow};

/// For fields that need not be written, because a reader takes the default for what is missing.
fn says_nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A name that is stored once and shared.
pub type Name = Arc<str>;

/// The whole compiled state of one gateway. All `u32` fields are indices into the vectors of this struct.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub gateway: Gateway,
    pub deployments: Vec<Deployment>,
    pub routes: Vec<Route>,
    pub namespaces: Vec<Namespace>,
    pub teams: Vec<Team>,
    pub budgets: Vec<Budget>,
    pub policies: Vec<Policy>,
    /// Sorted by hash.
    pub keys: Vec<Key>,
}

/// What the `LLMGateway` says, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gateway {
    pub namespace: Name,
    pub name: Name,
    /// SHA-256 of the master key; `None`: no master key, nobody is admin.
    pub master_key: Option<KeyHash>,
    /// Requests to models without a price: refused when true (always refused under a Hard budget).
    pub deny_unpriced: bool,
    pub drop_unsupported_parameters: bool,
    /// Cap injected where the request names none and neither model nor key has a lower one. Tokens.
    pub max_output_tokens: u64,
    /// Below this a call is refused rather than cut shorter. Tokens.
    pub min_output_tokens: u64,
    /// All attempts of one call, over retries and fallbacks.
    pub max_attempts: u32,
    /// 429 or 422.
    pub budget_exceeded_status: u16,
    /// How long a call waits for money that calls in flight hold. Milliseconds.
    pub reserved_wait_ms: u64,
    pub timeouts: Timeouts,
    pub retries: Retries,
    pub cooldown: Cooldown,
    /// Hosts any deployment may call; `*` all, `*.example.com` a suffix.
    pub allowed_hosts: Vec<Name>,
    pub metrics_require_auth: bool,
    /// Budgets are counted in a Redis or Valkey: the credential that is its URL.
    #[serde(skip_serializing_if = "says_nothing")]
    pub redis: Option<Name>,
    /// `None`: rows stay with the proxy.
    #[serde(skip_serializing_if = "says_nothing")]
    pub postgres: Option<PostgresStore>,
    /// The most proxies that there should be; 0: nobody says. A proxy that was not told how many there are takes this.
    #[serde(skip_serializing_if = "says_nothing")]
    pub replicas: u32,
    /// Tokens that a provider read from its cache do not count against rates.
    #[serde(skip_serializing_if = "says_nothing")]
    pub ignore_cached_tokens: bool,
    /// Headers that name the end user, in this order; in small letters.
    #[serde(skip_serializing_if = "says_nothing")]
    pub end_user_headers: Vec<Name>,
    /// Headers that are tags, as they are to be shown.
    #[serde(skip_serializing_if = "says_nothing")]
    pub tag_headers: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub rate_limits: Vec<RateLimit>,
    /// Together not above 100 percent.
    #[serde(skip_serializing_if = "says_nothing")]
    pub priorities: Vec<Priority>,
}

/// A PostgreSQL that rows go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresStore {
    /// The [`Credential`] that is its URL; one that is not there is not known yet, and rows wait.
    pub credential: Name,
    /// Days that rows are kept; 0: for ever.
    #[serde(skip_serializing_if = "says_nothing")]
    pub retention_days: u32,
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            namespace: "default".into(),
            name: "default".into(),
            master_key: None,
            deny_unpriced: false,
            drop_unsupported_parameters: true,
            max_output_tokens: 4096,
            min_output_tokens: 16,
            max_attempts: 6,
            budget_exceeded_status: 429,
            reserved_wait_ms: 2_000,
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            cooldown: Cooldown::default(),
            allowed_hosts: vec!["*".into()],
            metrics_require_auth: false,
            redis: None,
            postgres: None,
            replicas: 0,
            ignore_cached_tokens: false,
            end_user_headers: Vec::new(),
            tag_headers: Vec::new(),
            rate_limits: Vec::new(),
            priorities: Vec::new(),
        }
    }
}

/// A rule about rates that a gateway sets for many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimit {
    pub name: Name,
    #[serde(skip_serializing_if = "says_nothing")]
    pub per: RateLimitPer,
    /// Only keys whose policy names it.
    #[serde(skip_serializing_if = "says_nothing")]
    pub of_some_keys: bool,
    /// Only calls of keys of these users; empty: all. So below.
    #[serde(skip_serializing_if = "says_nothing")]
    pub users: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub end_users: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub tags: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub models: Option<ModelSet>,
    pub limits: Limits,
}

/// What each has the limits of a rule for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum RateLimitPer {
    /// Nothing: all calls share them.
    #[default]
    All,
    Key,
    Team,
    User,
    EndUser,
    Tag,
    Model,
    Namespace,
}

/// Of what this version does not know, all share one: never more than the limit.
impl<'de> Deserialize<'de> for RateLimitPer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match &*<std::borrow::Cow<'de, str>>::deserialize(deserializer)? {
            "Key" => RateLimitPer::Key,
            "Team" => RateLimitPer::Team,
            "User" => RateLimitPer::User,
            "EndUser" => RateLimitPer::EndUser,
            "Tag" => RateLimitPer::Tag,
            "Model" => RateLimitPer::Model,
            "Namespace" => RateLimitPer::Namespace,
            _ => RateLimitPer::All,
        })
    }
}

/// A class of keys and what it keeps of scarce rates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Priority {
    pub name: Name,
    /// Of the rates of a deployment or account.
    pub share_percent: u8,
}

/// Which gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayName {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for GatewayName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// SHA-256 of a virtual key's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

/// One upstream model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deployment {
    pub namespace: Name,
    pub name: Name,
    /// Catalogue id.
    pub provider: Name,
    pub dialect: Dialect,
    pub surface: Surface,
    pub endpoint: Endpoint,
    /// Azure's `api-version`.
    #[serde(skip_serializing_if = "says_nothing")]
    pub api_version: Option<Name>,
    /// The provider's id of the model; a `*` stands for what the wildcard of the public name matched.
    pub model: Name,
    pub auth: AuthStyle,
    /// Empty: called without credential.
    #[serde(skip_serializing_if = "says_nothing")]
    pub credentials: Vec<CredentialUse>,
    /// Further fixed request headers.
    #[serde(skip_serializing_if = "says_nothing")]
    pub headers: Vec<(Name, Name)>,
    /// `None`: no price is known.
    #[serde(skip_serializing_if = "says_nothing")]
    pub price: Option<Arc<PriceSheet>>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub limits: Limits,
    /// Of the account behind it, shared by all deployments that name the same `account`.
    #[serde(skip_serializing_if = "says_nothing")]
    pub account: Option<Account>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub timeouts: Timeouts,
    #[serde(skip_serializing_if = "says_nothing")]
    pub parameters: Parameters,
    /// The most this model can put out, if known. Tokens.
    #[serde(skip_serializing_if = "says_nothing")]
    pub max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub max_input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub region: Option<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub tags: Vec<Name>,
    /// Operations the upstream understands itself; the rest is bridged or refused.
    pub native: Operations,
    #[serde(skip_serializing_if = "says_nothing")]
    pub quirks: Arc<tollgate_dialects::chat::Quirks>,
    /// Upper bound of the tokens of one image, for holds; `None`: refused under a Hard budget.
    #[serde(skip_serializing_if = "says_nothing")]
    pub image_token_bound: Option<u64>,
    /// The provider stops billing when the connection is closed.
    #[serde(skip_serializing_if = "says_nothing")]
    pub cancel_stops_billing: bool,
    /// Streams show all output that is billed, as it is made, unless the call asks for something that does not.
    #[serde(skip_serializing_if = "says_nothing")]
    pub shows_output: bool,
    /// The model searches the web with every call, and its price has a rate for that.
    #[serde(skip_serializing_if = "says_nothing")]
    pub always_searches: bool,
    #[serde(default)]
    pub probe: Probe,
}

/// How a deployment is asked whether it works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// For the list of its models, which costs nothing.
    #[default]
    Models,
    /// For a completion of one token, which is booked.
    Completion,
    /// Never.
    None,
}

/// The account a deployment is called through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// `namespace/name`
    pub id: Name,
    #[serde(skip_serializing_if = "says_nothing")]
    pub limits: Limits,
}

/// How URLs are built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Surface {
    /// `{base}/chat/completions`
    #[default]
    OpenAi,
    /// `{base}/openai/deployments/{model}/chat/completions?api-version=`
    Azure,
    /// `{base}/v1/messages`
    Anthropic,
}

/// Where a deployment listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub tls: bool,
    /// Host name or address, without port; IPv6 without brackets.
    pub host: Name,
    pub port: u16,
    /// Path before the operation's, without a trailing slash; empty or begins with a slash.
    pub path: Name,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthStyle {
    /// `Authorization: Bearer ...`
    #[default]
    Bearer,
    /// `api-key: ...`
    ApiKey,
    /// `x-api-key: ...`
    XApiKey,
    None,
}

/// A credential that a deployment may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialUse {
    /// [`Credential::id`]
    pub id: Name,
    pub weight: u32,
}

/// A provider's credential, or the URL of a store, which has a password. Travels beside the snapshot, never in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `namespace/secret/key`
    pub id: Name,
    pub value: Arc<str>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("id", &self.id).field("value", &"<secret>").finish()
    }
}

/// Rates per minute and calls at once; `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    #[serde(skip_serializing_if = "says_nothing")]
    pub requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub input_tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub output_tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub parallel_requests: Option<u64>,
}

impl Limits {
    pub fn is_unlimited(&self) -> bool {
        *self == Limits::default()
    }
}

/// Milliseconds; `None`: the next wider setting applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    #[serde(skip_serializing_if = "says_nothing")]
    pub connect_ms: Option<u64>,
    /// Of a stream: until its first byte.
    #[serde(skip_serializing_if = "says_nothing")]
    pub first_byte_ms: Option<u64>,
    /// Of a stream: between two reads.
    #[serde(skip_serializing_if = "says_nothing")]
    pub idle_ms: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub total_ms: Option<u64>,
}

impl Timeouts {
    /// `self` where it says something, else `wider`.
    pub fn or(self, wider: Timeouts) -> Timeouts {
        Timeouts {
            connect_ms: self.connect_ms.or(wider.connect_ms),
            first_byte_ms: self.first_byte_ms.or(wider.first_byte_ms),
            idle_ms: self.idle_ms.or(wider.idle_ms),
            total_ms: self.total_ms.or(wider.total_ms),
        }
    }
}

/// Changes to the body on its way out. Values are JSON texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Set where the client does not say.
    #[serde(skip_serializing_if = "says_nothing")]
    pub defaults: Vec<(Name, Name)>,
    /// Set whatever the client says.
    #[serde(skip_serializing_if = "says_nothing")]
    pub forced: Vec<(Name, Name)>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub drop: Vec<Name>,
}

impl Parameters {
    pub fn is_empty(&self) -> bool {
        self.defaults.is_empty() && self.forced.is_empty() && self.drop.is_empty()
    }
}

/// Which operations an upstream has natively.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operations {
    pub chat: bool,
    pub completions: bool,
    pub embeddings: bool,
    pub messages: bool,
    pub count_tokens: bool,
}

/// A public model name of one namespace, and what serves it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// The public name, or a pattern that ends in `*`.
    pub name: Name,
    /// The object behind it: `namespace/name` of a RouteGroup, or of the implicit group of deployments.
    pub owner: Name,
    pub explicit: bool,
    pub strategy: Strategy,
    /// In order of priority, lower first.
    pub targets: Vec<Target>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub fallbacks: Vec<Fallback>,
    pub retries: Retries,
    #[serde(skip_serializing_if = "says_nothing")]
    pub timeouts: Timeouts,
    pub cooldown: Cooldown,
    /// Callable, but not listed.
    #[serde(skip_serializing_if = "says_nothing")]
    pub hidden: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Strategy {
    #[default]
    WeightedShuffle,
    LeastBusy,
    Ordered,
}

/// A strategy that this version does not know serves as the usual one.
impl<'de> Deserialize<'de> for Strategy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match &*<std::borrow::Cow<'de, str>>::deserialize(deserializer)? {
            "LeastBusy" => Strategy::LeastBusy,
            "Ordered" => Strategy::Ordered,
            _ => Strategy::WeightedShuffle,
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    pub deployment: u32,
    pub weight: u32,
    pub priority: i32,
    /// A [`crate::condition::Condition`]; `None`: always.
    #[serde(skip_serializing_if = "says_nothing")]
    pub when: Option<Name>,
}

/// Other routes for some kinds of failure, tried in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fallback {
    #[serde(deserialize_with = "known_classes")]
    pub errors: Vec<ErrorClass>,
    pub routes: Vec<u32>,
}

/// Those that this version knows: failures that it cannot tell apart it cannot treat apart either.
fn known_classes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<ErrorClass>, D::Error> {
    use serde::de::value::{Error, StrDeserializer};
    let names = <Vec<Name>>::deserialize(deserializer)?;
    let known = names.iter().map(|name| ErrorClass::deserialize(StrDeserializer::<Error>::new(name)));
    Ok(known.flatten().collect())
}

/// Why an attempt failed, as retries and fallbacks name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Every failure that has no class of its own in the same list of fallbacks.
    Any,
    RateLimit,
    Timeout,
    ServerError,
    Connect,
    Authentication,
    ContextWindow,
    ContentPolicy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retries {
    /// Extra tries inside one route.
    pub attempts: u32,
    #[serde(deserialize_with = "known_classes")]
    pub errors: Vec<ErrorClass>,
    pub initial_backoff_ms: u64,
    pub max_backoff_ms: u64,
}

impl Default for Retries {
    fn default() -> Self {
        use ErrorClass::*;
        Retries {
            attempts: 2,
            errors: vec![RateLimit, Timeout, ServerError, Connect],
            initial_backoff_ms: 500,
            max_backoff_ms: 8_000,
        }
    }
}

/// A deployment with `failures` in `window` is passed over for `duration`. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cooldown {
    pub failures: u32,
    pub window_ms: u64,
    /// 0: never.
    pub duration_ms: u64,
    /// Also when no other deployment could serve. Set where somebody wrote a cooldown.
    pub even_alone: bool,
}

impl Default for Cooldown {
    fn default() -> Self {
        Cooldown { failures: 3, window_ms: 60_000, duration_ms: 5_000, even_alone: false }
    }
}

/// The names that keys of one namespace may ask for, imports of other namespaces included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    pub name: Name,
    /// Sorted by name.
    pub exact: Vec<(Name, u32)>,
    /// What stands before the `*`, longest first.
    pub prefixes: Vec<(Name, u32)>,
}

/// A set of public model names: exact names and patterns that end in `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSet {
    /// Sorted.
    #[serde(skip_serializing_if = "says_nothing")]
    pub exact: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub prefixes: Vec<Name>,
}

impl ModelSet {
    /// Sorts names and patterns apart.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> ModelSet {
        let mut set = ModelSet::default();
        for name in names {
            match name.strip_suffix('*') {
                Some(prefix) => set.prefixes.push(prefix.into()),
                None => set.exact.push(name.into()),
            }
        }
        set.exact.sort();
        set.exact.dedup();
        set
    }

    /// Whether it has every name there is.
    pub fn is_all(&self) -> bool {
        self.prefixes.iter().any(|prefix| prefix.is_empty())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.exact.binary_search_by(|probe| (**probe).cmp(name)).is_ok()
            || self.prefixes.iter().any(|prefix| name.starts_with(&**prefix))
    }
}

/// Who keys belong to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Team {
    pub namespace: Name,
    pub name: Name,
    /// `None`: the team sets no bound, its keys must.
    #[serde(skip_serializing_if = "says_nothing")]
    pub models: Option<ModelSet>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub limits: Limits,
    /// Those who have limits of their own in the team, sorted by user.
    #[serde(skip_serializing_if = "says_nothing")]
    pub members: Vec<TeamMember>,
    /// The teams above whose limits, or whose members' limits, its keys share; indices into [`Snapshot::teams`].
    #[serde(skip_serializing_if = "says_nothing")]
    pub above: Vec<u32>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub blocked: bool,
}

/// What all keys of a user in a team share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TeamMember {
    pub user: Name,
    pub limits: Limits,
}

/// What several keys have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Index into [`Snapshot::namespaces`].
    pub namespace: u32,
    pub team: Option<u32>,
    /// `None`: all that the team allows.
    pub models: Option<ModelSet>,
    /// Asked name → name that is looked up.
    pub aliases: Vec<(Name, Name)>,
    pub limits: Limits,
    pub per_model: Vec<(Name, Limits)>,
    /// Names of the gateway's rules for some keys that count this one.
    pub rate_limits: Vec<Name>,
    /// Name of the class.
    pub priority: Option<Name>,
    pub tags: Vec<Name>,
    pub labels: Vec<(Name, Name)>,
    pub max_output_tokens: Option<u64>,
}

/// One virtual key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Key {
    pub hash: KeyHash,
    /// Of the VirtualKey object, in the namespace of its policy.
    pub name: Name,
    pub policy: u32,
    pub user: Option<Name>,
    /// All budgets that may bind a call of this key: its own, its team's, those that select it, and their parents.
    pub budgets: Vec<u32>,
    pub disabled: bool,
    /// Unix seconds.
    pub expires_at: Option<i64>,
}

/// Of hexadecimal digits by their character; all other characters have a value that no digit has.
const VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

impl Serialize for KeyHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_digits(|digits| serializer.serialize_str(digits))
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl serde::de::Visitor<'_> for Digits {
            type Value = KeyHash;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a hash of 64 hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<KeyHash, E> {
                KeyHash::parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

impl std::fmt::Display for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.with_digits(|digits| f.write_str(digits))
    }
}

impl KeyHash {
    /// The hash of a key's text.
    pub fn of(key: &[u8]) -> KeyHash {
        use sha2::Digest;
        KeyHash(sha2::Sha256::digest(key).into())
    }

    fn with_digits<T>(&self, write: impl FnOnce(&str) -> T) -> T {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0u8; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        write(std::str::from_utf8(&digits).expect("digits are ASCII"))
    }

    /// From 64 hexadecimal digits, in either case, with or without `sha256:` before them.
    pub fn parse(text: &str) -> Option<KeyHash> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0u8; 32];
        // All are looked at, then judged together: a hundred thousand hashes are read at once.
        let mut seen = 0;
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low & 15;
        }
        (seen < 16).then_some(KeyHash(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_text() {
        let hash = KeyHash::of(b"sk-test");
        assert_eq!(KeyHash::parse(&hash.to_string()), Some(hash));
        assert_eq!(KeyHash::parse(&format!("sha256:{hash}")), Some(hash));
        assert_eq!(KeyHash::parse("zz"), None);
        assert_eq!(KeyHash::parse(&"g".repeat(64)), None);
    }

    #[test]
    fn a_model_set_knows_names_and_patterns() {
        let set = ModelSet::new(["gpt-4*", "chat"]);
        for (name, allowed) in [("gpt-4o", true), ("gpt-4", true), ("chat", true), ("chat2", false), ("gpt-3", false)] {
            assert_eq!(set.contains(name), allowed, "{name}");
        }
        assert!(!ModelSet::default().contains("x"));
        assert!(ModelSet::new(["*"]).contains("anything"));
    }
}
