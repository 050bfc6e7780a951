//! The manifest: which parts make up the tables of a gateway, and the hash of each. It is written last, so that whoever
//! has every part that it names, with the hash that it names, has one whole generation.

use serde::{Deserialize, Serialize};

use super::shard::ShardDigits;
use super::tables::{Part, Tables};
use super::{FORMAT, ReadError};
use crate::model::GatewayName;

/// The text of the ConfigMap [`super::names::manifest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// Counts up with every change of what is written.
    pub generation: u64,
    /// Version of the operator, for people.
    pub written_by: String,
    pub gateway: GatewayName,
    /// In order: they are pieces of one text.
    pub policy: Vec<PartRef>,
    /// In order: they are pieces of one text.
    pub keys: Vec<PartRef>,
    /// Secrets.
    pub credentials: Vec<SecretRef>,
    /// How many digits of its hash decide which shard a key is in.
    pub shard_digits: ShardDigits,
}

/// A ConfigMap and what it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartRef {
    pub name: String,
    /// Of the text, in lower case hexadecimal digits.
    pub sha256: String,
    /// Length of the text.
    pub bytes: usize,
}

/// A Secret and what it must hold. Its length is not told: it says something about what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretRef {
    pub name: String,
    /// Of the text, in lower case hexadecimal digits. The text has a salt, so that this tells nothing.
    pub sha256: String,
}

impl Manifest {
    /// The manifest of `tables`. `written_by`: version of the operator.
    pub fn of(tables: &Tables, generation: u64, written_by: &str, gateway: GatewayName) -> Manifest {
        let Tables { policy, keys, credentials, shard_digits } = tables;
        let part = |Part { name, content, sha256 }: &Part| PartRef {
            name: name.clone(),
            sha256: sha256.clone(),
            bytes: content.len(),
        };
        let secret =
            |Part { name, content: _, sha256 }: &Part| SecretRef { name: name.clone(), sha256: sha256.clone() };
        Manifest {
            format: FORMAT,
            generation,
            written_by: written_by.to_owned(),
            gateway,
            policy: policy.iter().map(part).collect(),
            keys: keys.iter().map(part).collect(),
            credentials: credentials.iter().map(secret).collect(),
            shard_digits: *shard_digits,
        }
    }

    /// Whether both name the same parts with the same hashes: then there is nothing to write, whatever the generation
    /// and whoever wrote it.
    pub fn same_content(&self, other: &Manifest) -> bool {
        let Manifest { format, generation: _, written_by: _, gateway, policy, keys, credentials, shard_digits } = self;
        *format == other.format
            && *gateway == other.gateway
            && *policy == other.policy
            && *keys == other.keys
            && *credentials == other.credentials
            && *shard_digits == other.shard_digits
    }

    /// Names of the ConfigMaps, then of the Secrets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let parts = self.policy.iter().chain(&self.keys).map(|part| part.name.as_str());
        parts.chain(self.credentials.iter().map(|secret| secret.name.as_str()))
    }

    /// As it is written.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are valid JSON")
    }

    /// # Errors
    /// The text is no manifest, or one of a newer format. `name` is that of the ConfigMap, for the error.
    pub fn parse(name: &str, text: &str) -> Result<Manifest, ReadError> {
        #[derive(Deserialize)]
        struct OnlyFormat {
            format: u32,
        }
        let unreadable =
            |error: serde_json::Error| ReadError::Unreadable { part: name.to_owned(), error: error.to_string() };
        // First alone: a newer manifest may have another shape.
        let OnlyFormat { format } = serde_json::from_str(text).map_err(unreadable)?;
        if format > FORMAT {
            return Err(ReadError::NewerFormat { part: name.to_owned(), format });
        }
        serde_json::from_str(text).map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_text() {
        let part = PartRef { name: "a".into(), sha256: "00".into(), bytes: 3 };
        let manifest = Manifest {
            format: FORMAT,
            generation: 7,
            written_by: "0.1.0".into(),
            gateway: GatewayName { namespace: "n".into(), name: "g".into() },
            policy: vec![part.clone()],
            keys: vec![part],
            credentials: vec![SecretRef { name: "s".into(), sha256: "01".into() }],
            shard_digits: ShardDigits::One,
        };
        assert_eq!(Manifest::parse("m", &manifest.to_text()), Ok(manifest.clone()));
        let other = Manifest { generation: 8, written_by: "0.2.0".into(), ..manifest.clone() };
        assert!(manifest.same_content(&other));
        assert!(!manifest.same_content(&Manifest { keys: Vec::new(), ..other }));
        assert_eq!(manifest.names().collect::<Vec<_>>(), ["a", "a", "s"]);
    }

    #[test]
    fn a_newer_format_is_told_apart_from_nonsense() {
        let newer = Manifest::parse("m", r#"{"format": 2, "policy": {"other": "shape"}}"#);
        assert_eq!(newer, Err(ReadError::NewerFormat { part: "m".into(), format: 2 }));
        for text in ["", "{}", "[]", r#"{"format": 1, "keys": 3}"#] {
            assert!(matches!(Manifest::parse("m", text), Err(ReadError::Unreadable { .. })), "{text}");
        }
        let more = r#"{"format": 1, "generation": 3, "whatever": {"is": "new"}}"#;
        assert_eq!(Manifest::parse("m", more).map(|manifest| manifest.generation), Ok(3));
    }
}
