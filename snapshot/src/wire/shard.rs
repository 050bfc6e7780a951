//! Key shards: keys by the first digits of their hash, each shard with the policies of its keys, the budgets that only
//! one key has, and the names of budgets that others share. A shard counts its own policies and budgets only, so that
//! nothing outside of it changes when it does.
//!
//! ```text
//! {"shard":"0f"}                              counting begins anew
//! {"policy":{"namespace":"team-a",...}}       policy 0 of this shard
//! {"sharedBudget":"team-a/Team/research"}     budget 0
//! {"budget":{"id":"team-a/VirtualKey/ci"}}    budget 1
//! {"key":{"hash":"0f...","name":"ci","policy":0,"budgets":[1,0]}}
//! ```

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::names;
use super::policy;
use super::tables::{Last, Part, Tables};
use super::text::{Cuts, cut};
use crate::model::{Budget, Key, KeyHash, Limits, ModelSet, Name, Policy, Snapshot};

/// How many digits of its hash decide which shard a key is in: 1, 16 or 256 shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
pub enum ShardDigits {
    #[default]
    None,
    One,
    Two,
}

/// More keys than this on average, or a larger shard than [`MOST_BYTES`], and one digit more decides: a change of one
/// key rewrites its whole shard.
const MOST_KEYS: usize = 1_000;
const MOST_BYTES: usize = 500_000;

impl From<ShardDigits> for u8 {
    fn from(digits: ShardDigits) -> u8 {
        match digits {
            ShardDigits::None => 0,
            ShardDigits::One => 1,
            ShardDigits::Two => 2,
        }
    }
}

impl From<u8> for ShardDigits {
    fn from(number: u8) -> ShardDigits {
        match number {
            0 => ShardDigits::None,
            1 => ShardDigits::One,
            _ => ShardDigits::Two,
        }
    }
}

impl ShardDigits {
    fn shards(self) -> usize {
        16usize.pow(u8::from(self).into())
    }

    fn more(self) -> Option<ShardDigits> {
        match self {
            ShardDigits::None => Some(ShardDigits::One),
            ShardDigits::One => Some(ShardDigits::Two),
            ShardDigits::Two => None,
        }
    }

    fn fewer(self) -> Option<ShardDigits> {
        match self {
            ShardDigits::None => None,
            ShardDigits::One => Some(ShardDigits::None),
            ShardDigits::Two => Some(ShardDigits::One),
        }
    }

    /// What a hash of the shard begins with; comparable, and the same for all of its keys.
    fn prefix(self, hash: &KeyHash) -> u8 {
        match self {
            ShardDigits::None => 0,
            ShardDigits::One => hash.0[0] >> 4,
            ShardDigits::Two => hash.0[0],
        }
    }

    fn prefix_text(self, prefix: u8) -> String {
        match self {
            ShardDigits::None => String::new(),
            ShardDigits::One => format!("{prefix:x}"),
            ShardDigits::Two => format!("{prefix:02x}"),
        }
    }

    /// The fewest that `count` keys fit into.
    fn for_count(count: usize) -> ShardDigits {
        let all = [ShardDigits::None, ShardDigits::One];
        all.into_iter().find(|digits| count <= MOST_KEYS * digits.shards()).unwrap_or(ShardDigits::Two)
    }
}

/// A line of a shard, as it is written.
#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Record<'a> {
    Shard(&'a str),
    Policy(Box<PolicyRow<'a>>),
    SharedBudget(&'a str),
    Budget(&'a Budget),
    Key(KeyRow<'a>),
}

/// A line of a shard, as it is read: at most one of these. `B`: a budget, or what can be understood of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "B: Deserialize<'de>"))]
pub(super) struct Line<'a, B> {
    #[serde(borrow)]
    pub shard: Option<Text<'a>>,
    #[serde(borrow)]
    pub policy: Option<PolicyRow<'a>>,
    #[serde(borrow)]
    pub shared_budget: Option<Text<'a>>,
    pub budget: Option<B>,
    #[serde(borrow)]
    pub key: Option<KeyRow<'a>>,
}

/// A text that is copied only where it has escapes.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Text<'a> {
        Text(Cow::Borrowed(text))
    }
}

/// A [`Policy`] that names its namespace and team.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PolicyRow<'a> {
    #[serde(borrow)]
    pub namespace: Text<'a>,
    /// `namespace/name`
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub team: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub models: Option<ModelsRow<'a>>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<(Text<'a>, Text<'a>)>,
    #[serde(skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    pub per_model: Vec<(Text<'a>, Limits)>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(Text<'a>, Text<'a>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
}

/// A [`ModelSet`].
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ModelsRow<'a> {
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    pub exact: Vec<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<Text<'a>>,
}

/// A [`Key`] that counts the policies and budgets of its shard.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeyRow<'a> {
    pub hash: KeyHash,
    #[serde(borrow)]
    pub name: Text<'a>,
    pub policy: u32,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub user: Option<Text<'a>>,
    #[serde(skip_serializing_if = "is_empty")]
    pub budgets: Cow<'a, [u32]>,
    #[serde(skip_serializing_if = "is_false")]
    pub disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

fn is_empty(numbers: &[u32]) -> bool {
    numbers.is_empty()
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// All shards with a key in them, in order. `before`: how many digits decided so far; kept until the number or size of
/// keys is far enough from where it would change that no single key changes it back.
pub(super) fn write(
    snapshot: &Snapshot,
    references: &[Name],
    before: Option<ShardDigits>,
    last: Option<Last<'_>>,
) -> (Vec<Part>, ShardDigits) {
    let count = snapshot.keys.len();
    let least = ShardDigits::for_count(count);
    let mut digits = before.map_or(least, |before| before.max(least));
    let mut writer = Writer::new(snapshot, references);
    // The names of parts have the gateway's.
    let last = last.filter(|last| last.snapshot.gateway.name == snapshot.gateway.name);
    let last_references = last.map(|last| policy::references(&last.snapshot.budgets)).unwrap_or_default();
    let mut written = last.map(|last| Written::new(last, &last_references));
    let mut shards = writer.shards(digits, written.as_mut());
    while largest(&shards) > MOST_BYTES
        && let Some(more) = digits.more()
    {
        digits = more;
        shards = writer.shards(digits, written.as_mut());
    }
    // Half of what would call for more again.
    let may_shrink = before == Some(digits);
    while may_shrink
        && let Some(fewer) = digits.fewer()
        && count <= MOST_KEYS * fewer.shards() / 2
        && shards.iter().map(Shard::bytes).sum::<usize>() <= MOST_BYTES * fewer.shards() / 2
    {
        let joined = writer.shards(fewer, written.as_mut());
        if largest(&joined) > MOST_BYTES / 2 {
            break;
        }
        (digits, shards) = (fewer, joined);
    }
    let gateway = &snapshot.gateway.name;
    let mut parts = Vec::with_capacity(shards.len());
    for shard in shards {
        match shard {
            Shard::Same(same) => parts.extend_from_slice(same),
            Shard::New(prefix, text) => {
                let prefix = digits.prefix_text(prefix);
                let pieces = cut(text, Cuts::OnlyWhenFull).into_iter().enumerate();
                parts.extend(pieces.map(|(piece, content)| Part::new(names::keys(gateway, &prefix, piece), content)));
            }
        }
    }
    (parts, digits)
}

/// A shard of the tables that are written.
enum Shard<'a> {
    /// As it was written last.
    Same(&'a [Part]),
    /// What its hashes begin with, and its text.
    New(u8, String),
}

impl Shard<'_> {
    fn bytes(&self) -> usize {
        match self {
            Shard::Same(parts) => parts.iter().map(|part| part.content.len()).sum(),
            Shard::New(_, text) => text.len(),
        }
    }
}

fn largest(shards: &[Shard<'_>]) -> usize {
    shards.iter().map(Shard::bytes).max().unwrap_or(0)
}

/// What was written last, to look whether it would be written again.
struct Written<'a> {
    writer: Writer<'a>,
    tables: &'a Tables,
    /// By index of the policies that are written now: the one of then that it was compared with, and whether they say
    /// the same.
    compared: Vec<Option<(u32, bool)>>,
}

impl<'a> Written<'a> {
    fn new(last: Last<'a>, references: &'a [Name]) -> Written<'a> {
        Written { writer: Writer::new(last.snapshot, references), tables: last.tables, compared: Vec::new() }
    }

    /// Keys and parts of each shard.
    fn shards(&self, digits: ShardDigits) -> HashMap<u8, (&'a [Key], &'a [Part])> {
        let Written { writer, tables, .. } = self;
        if tables.shard_digits != digits {
            return HashMap::new();
        }
        let Snapshot { gateway, keys, .. } = writer.snapshot;
        let mut pieces = Pieces::new(&gateway.name, digits, &tables.keys, |part: &Part| part.name.as_str());
        by_prefix(keys, digits).map(|(prefix, keys)| (prefix, (keys, pieces.of_shard(prefix)))).collect()
    }

    /// Whether keys give the text that those of then gave: the same rows, in the same order, that count alike.
    fn is_same(&mut self, new: &mut Writer<'_>, keys: &[Key], then: &[Key]) -> bool {
        let Written { writer: old, compared, .. } = self;
        compared.resize(new.snapshot.policies.len(), None);
        new.begin();
        old.begin();
        keys.len() == then.len()
            && keys.iter().zip(then).all(|(key, then)| {
                let (now, is_new) = new.policies.number(key.policy);
                if (now, is_new) != old.policies.number(then.policy) || key.budgets.len() != then.budgets.len() {
                    return false;
                }
                let known = compared[key.policy as usize].filter(|(with, _)| *with == then.policy);
                let (_, is_same_policy) = known.unwrap_or_else(|| {
                    let is_same = new.policy(key.policy) == old.policy(then.policy);
                    *compared[key.policy as usize].insert((then.policy, is_same))
                });
                is_same_policy
                    && row(key, now, &[]) == row(then, now, &[])
                    && key.budgets.iter().zip(&then.budgets).all(|(&budget, &then)| {
                        let (now, before) = (new.budgets.number(budget), old.budgets.number(then));
                        now == before && (!now.1 || new.budget(budget) == old.budget(then))
                    })
            })
    }
}

/// Parts with keys, shard by shard.
pub(super) struct Pieces<'p, P> {
    gateway: &'p str,
    digits: ShardDigits,
    rest: &'p [P],
    name: fn(&P) -> &str,
}

impl<'p, P> Pieces<'p, P> {
    /// `parts`: in the order of their shards.
    pub fn new(gateway: &'p str, digits: ShardDigits, parts: &'p [P], name: fn(&P) -> &str) -> Pieces<'p, P> {
        Pieces { gateway, digits, rest: parts, name }
    }

    /// Those of the shard with this prefix, which is after the one that was asked for last.
    pub fn of_shard(&mut self, prefix: u8) -> &'p [P] {
        let prefix = self.digits.prefix_text(prefix);
        let first = names::keys(self.gateway, &prefix, 0);
        let Some(begin) = self.rest.iter().position(|part| (self.name)(part) == first) else {
            // It is not there: the rest is that of later ones.
            return &[];
        };
        let found = &self.rest[begin..];
        let is_piece = |at: usize, part: &P| (self.name)(part) == names::keys(self.gateway, &prefix, at);
        let count = found.iter().enumerate().take_while(|(at, part)| is_piece(*at, part)).count();
        let (of_shard, rest) = found.split_at(count);
        self.rest = rest;
        of_shard
    }
}

pub(super) fn by_prefix(keys: &[Key], digits: ShardDigits) -> impl Iterator<Item = (u8, &[Key])> {
    let shards = keys.chunk_by(move |a, b| digits.prefix(&a.hash) == digits.prefix(&b.hash));
    shards.map(move |keys| (digits.prefix(&keys[0].hash), keys))
}

/// Writes shards, one after the other.
struct Writer<'a> {
    snapshot: &'a Snapshot,
    /// By index, what shards call the budgets that keys share.
    references: &'a [Name],
    /// By index, `namespace/name`.
    teams: Vec<String>,
    policies: Numbers,
    budgets: Numbers,
    /// Text so far. Bytes.
    longest: usize,
}

impl<'a> Writer<'a> {
    fn new(snapshot: &'a Snapshot, references: &'a [Name]) -> Writer<'a> {
        Writer {
            snapshot,
            references,
            teams: snapshot.teams.iter().map(|team| format!("{}/{}", team.namespace, team.name)).collect(),
            policies: Numbers::new(snapshot.policies.len()),
            budgets: Numbers::new(snapshot.budgets.len()),
            longest: 0,
        }
    }

    /// Those with a key in them.
    fn shards<'w>(&mut self, digits: ShardDigits, mut written: Option<&mut Written<'w>>) -> Vec<Shard<'w>> {
        let then = written.as_ref().map(|written| written.shards(digits)).unwrap_or_default();
        by_prefix(&self.snapshot.keys, digits)
            .map(|(prefix, keys)| {
                let same = written
                    .as_mut()
                    .zip(then.get(&prefix))
                    .and_then(|(written, (then, parts))| written.is_same(self, keys, then).then_some(*parts));
                match same {
                    Some(parts) => Shard::Same(parts),
                    None => Shard::New(prefix, self.shard(&digits.prefix_text(prefix), keys)),
                }
            })
            .collect()
    }

    /// Counting begins anew.
    fn begin(&mut self) {
        self.policies.begin();
        self.budgets.begin();
    }

    fn shard(&mut self, prefix: &str, keys: &[Key]) -> String {
        self.begin();
        // Shards are of about the same size.
        let mut lines = Lines::with_capacity(self.longest + self.longest / 8);
        lines.push(&Record::Shard(prefix));
        let mut numbers = Vec::new();
        for key in keys {
            let (policy, is_new) = self.policies.number(key.policy);
            if is_new {
                lines.push(&Record::Policy(Box::new(self.policy(key.policy))));
            }
            numbers.clear();
            for &budget in &key.budgets {
                let (number, is_new) = self.budgets.number(budget);
                numbers.push(number);
                if is_new {
                    lines.push(&self.budget(budget));
                }
            }
            lines.push(&Record::Key(row(key, policy, &numbers)));
        }
        let text = lines.into_text();
        self.longest = self.longest.max(text.len());
        text
    }

    fn budget(&self, budget: u32) -> Record<'a> {
        let written = &self.snapshot.budgets[budget as usize];
        match written.of_one_key {
            true => Record::Budget(written),
            false => Record::SharedBudget(&self.references[budget as usize]),
        }
    }

    fn policy(&self, policy: u32) -> PolicyRow<'_> {
        let Policy {
            namespace,
            team,
            models,
            aliases,
            limits,
            per_model,
            rate_limits,
            priority,
            tags,
            labels,
            max_output_tokens,
        } = &self.snapshot.policies[policy as usize];
        let texts = |names: &'a [Name]| names.iter().map(|name| Text::new(name)).collect();
        let pairs =
            |pairs: &'a [(Name, Name)]| pairs.iter().map(|(name, value)| (Text::new(name), Text::new(value))).collect();
        let models = models
            .as_ref()
            .map(|ModelSet { exact, prefixes }| ModelsRow { exact: texts(exact), prefixes: texts(prefixes) });
        PolicyRow {
            namespace: Text::new(&self.snapshot.namespaces[*namespace as usize].name),
            team: team.map(|team| Text::new(&self.teams[team as usize])),
            models,
            aliases: pairs(aliases),
            limits: *limits,
            per_model: per_model.iter().map(|(model, limits)| (Text::new(model), *limits)).collect(),
            rate_limits: texts(rate_limits),
            priority: priority.as_deref().map(Text::new),
            tags: texts(tags),
            labels: pairs(labels),
            max_output_tokens: *max_output_tokens,
        }
    }
}

/// `policy` and `budgets`: their numbers in the shard.
fn row<'a>(key: &'a Key, policy: u32, budgets: &'a [u32]) -> KeyRow<'a> {
    let Key { hash, name, policy: _, user, budgets: _, disabled, expires_at } = key;
    KeyRow {
        hash: *hash,
        name: Text::new(name),
        policy,
        user: user.as_deref().map(Text::new),
        budgets: Cow::Borrowed(budgets),
        disabled: *disabled,
        expires_at: *expires_at,
    }
}

/// Records, each on a line of its own.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub fn with_capacity(bytes: usize) -> Lines {
        Lines(Vec::with_capacity(bytes))
    }

    pub fn push(&mut self, record: &impl Serialize) {
        serde_json::to_writer(&mut self.0, record).expect("records are made of what JSON has");
        self.0.push(b'\n');
    }

    pub fn into_text(self) -> String {
        String::from_utf8(self.0).expect("JSON is UTF-8")
    }
}

/// Numbers things of the snapshot anew in each shard, in the order of their first use.
struct Numbers {
    /// By index: in which shard it was numbered last, and how.
    known: Vec<(u32, u32)>,
    shard: u32,
    next: u32,
}

impl Numbers {
    fn new(count: usize) -> Numbers {
        Numbers { known: vec![(0, 0); count], shard: 0, next: 0 }
    }

    fn begin(&mut self) {
        self.shard += 1;
        self.next = 0;
    }

    /// Its number in this shard, and whether it is new here.
    fn number(&mut self, index: u32) -> (u32, bool) {
        let known = &mut self.known[index as usize];
        if known.0 == self.shard {
            return (known.1, false);
        }
        *known = (self.shard, self.next);
        self.next += 1;
        (known.1, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digit_decides_for_all_keys_of_a_shard() {
        let hash = KeyHash([0x0f; 32]);
        for (digits, text) in [(ShardDigits::None, ""), (ShardDigits::One, "0"), (ShardDigits::Two, "0f")] {
            assert_eq!(digits.prefix_text(digits.prefix(&hash)), text);
            assert_eq!(ShardDigits::from(u8::from(digits)), digits);
        }
        assert_eq!(ShardDigits::for_count(MOST_KEYS), ShardDigits::None);
        assert_eq!(ShardDigits::for_count(MOST_KEYS + 1), ShardDigits::One);
        assert_eq!(ShardDigits::for_count(100_000), ShardDigits::Two);
    }
}
