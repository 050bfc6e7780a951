//! Names of keys. Budgets of a gateway fall to shards; all keys of a shard have one hash tag, so that a script may touch
//! them together in cluster mode, and shards spread over its nodes.

use sha2::Digest;

/// Shards of one gateway.
pub const SHARDS: usize = 16;

/// Names the keys of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayKeys {
    gateway: String,
}

impl GatewayKeys {
    /// `gateway`: `namespace/name`.
    pub fn new(gateway: &str) -> GatewayKeys {
        // A brace would end the hash tag.
        GatewayKeys { gateway: gateway.replace(['{', '}'], "_") }
    }

    /// The keys that are one for each shard, in the order of the script.
    pub(crate) fn shard(&self, shard: usize) -> [String; 5] {
        ["life", "members", "tight", "changed", "kept"]
            .map(|what| format!("tollgate:{{{}#{shard}}}:{what}", self.gateway))
    }

    /// The keys of rate limits that are one for each shard, in the order of their script.
    pub(crate) fn rates(&self, shard: usize) -> [String; 3] {
        ["life", "members", "tight"].map(|what| format!("tollgate:{{{}#{shard}}}:rates:{what}", self.gateway))
    }

    pub(crate) fn rate(&self, shard: usize, limit: &str) -> String {
        format!("tollgate:{{{}#{shard}}}:rate:{limit}", self.gateway)
    }

    /// Who tells of an event.
    pub(crate) fn told(&self, shard: usize, event: &str) -> String {
        format!("tollgate:{{{}#{shard}}}:told:{event}", self.gateway)
    }

    pub(crate) fn budget(&self, shard: usize, budget: &str) -> String {
        format!("tollgate:{{{}#{shard}}}:budget:{budget}", self.gateway)
    }
}

/// Which shard a budget or a limit is in. The same in every version.
pub fn shard_of(name: &str) -> usize {
    usize::from(sha2::Sha256::digest(name.as_bytes())[0]) % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_shard_have_one_hash_tag() {
        let keys = GatewayKeys::new("ns/gw");
        let [life, members, ..] = keys.shard(7);
        assert_eq!((life.as_str(), members.as_str()), ("tollgate:{ns/gw#7}:life", "tollgate:{ns/gw#7}:members"));
        assert_eq!(keys.budget(7, "a/Budget/{x}"), "tollgate:{ns/gw#7}:budget:a/Budget/{x}");
        assert_eq!(["a/Budget/b", "team-a/Team/research"].map(shard_of), [1, 9]);
    }
}
