//! What the tables of a gateway are called in the cluster, where their text stands in an object, and how objects are
//! labelled. All in the gateway's own namespace.

/// Label of every object that was made for a gateway: the gateway's name.
pub const GATEWAY_LABEL: &str = "tollgate.dev/gateway";

/// Label of every object that holds tables: [`MANIFEST`], [`POLICY`], [`KEYS`] or [`CREDENTIALS`].
pub const TABLES_LABEL: &str = "tollgate.dev/tables";
pub const MANIFEST: &str = "manifest";
pub const POLICY: &str = "policy";
pub const KEYS: &str = "keys";
pub const CREDENTIALS: &str = "credentials";

/// Entry of the ConfigMap that holds the manifest.
pub const MANIFEST_ENTRY: &str = "manifest.json";
/// Entry of the ConfigMaps that hold a part of the policy.
pub const POLICY_ENTRY: &str = "part";
/// Entry of the ConfigMaps that hold a shard of the keys.
pub const KEYS_ENTRY: &str = "keys.json";
/// Entry of the Secrets that hold credentials.
pub const CREDENTIALS_ENTRY: &str = "credentials.json";

/// How many Secrets may hold credentials. Fixed, because roles name each of them.
pub const CREDENTIALS_SECRETS: usize = 8;

/// The ConfigMap with the manifest.
pub fn manifest(gateway: &str) -> String {
    format!("tollgate-{gateway}-manifest")
}

/// A ConfigMap with a part of the policy.
pub fn policy(gateway: &str, part: usize) -> String {
    format!("tollgate-{gateway}-policy-{part}")
}

/// A ConfigMap with keys. `prefix`: hexadecimal digits that their hashes begin with, empty where one shard has all.
/// `piece`: 0, or the number of a further piece of a shard that does not fit into one ConfigMap.
pub fn keys(gateway: &str, prefix: &str, piece: usize) -> String {
    let mut name = format!("tollgate-{gateway}-keys");
    if !prefix.is_empty() || piece > 0 {
        name.push('-');
        name.push_str(prefix);
    }
    if piece > 0 {
        name.push_str(&format!("-{piece}"));
    }
    name
}

/// A Secret with credentials; `at` is less than [`CREDENTIALS_SECRETS`].
pub fn credentials(gateway: &str, at: usize) -> String {
    format!("tollgate-{gateway}-credentials-{at}")
}

/// All Secrets that may hold credentials, whether or not they are there.
pub fn all_credentials(gateway: &str) -> impl Iterator<Item = String> + '_ {
    (0..CREDENTIALS_SECRETS).map(move |at| credentials(gateway, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_roles_and_charts_know() {
        assert_eq!(manifest("default"), "tollgate-default-manifest");
        assert_eq!(policy("default", 0), "tollgate-default-policy-0");
        assert_eq!(keys("default", "", 0), "tollgate-default-keys");
        assert_eq!(keys("default", "f", 0), "tollgate-default-keys-f");
        assert_eq!(keys("default", "0f", 0), "tollgate-default-keys-0f");
        assert_eq!(keys("default", "0f", 2), "tollgate-default-keys-0f-2");
        assert_eq!(all_credentials("g").last().as_deref(), Some("tollgate-g-credentials-7"));
    }

    #[test]
    fn a_further_piece_never_has_the_name_of_a_shard() {
        let shards: Vec<String> = (0..16).map(|digit| keys("g", &format!("{digit:x}"), 0)).collect();
        for piece in 1..20 {
            assert!(!shards.contains(&keys("g", "", piece)), "{}", keys("g", "", piece));
        }
    }
}
