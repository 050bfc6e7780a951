//! One object of any of our kinds: what is read from files and from watches before anybody knows which kind it is.

use crate::{Budget, LLMGateway, ModelDeployment, ProviderAccount, RouteGroup, Team, VirtualKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// An object of one of our kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    LLMGateway(LLMGateway),
    ProviderAccount(ProviderAccount),
    ModelDeployment(ModelDeployment),
    RouteGroup(RouteGroup),
    Team(Team),
    VirtualKey(VirtualKey),
    Budget(Budget),
}

impl Resource {
    /// All kinds, in the order in which everything here lists them.
    pub const KINDS: [&'static str; 7] =
        ["LLMGateway", "ProviderAccount", "ModelDeployment", "RouteGroup", "Team", "VirtualKey", "Budget"];

    /// Reads an object of `kind`; `None` when the kind is none of ours. `apiVersion` is for the caller to look at. Wrap
    /// the deserializer in `serde_ignored` to learn of unknown fields; it reports `apiVersion` and `kind` too.
    ///
    /// # Errors
    /// Inside: those of the deserializer, for a missing field or a value of another type.
    pub fn deserialize<'de, D: Deserializer<'de>>(kind: &str, deserializer: D) -> Option<Result<Resource, D::Error>> {
        Some(match kind {
            "LLMGateway" => LLMGateway::deserialize(deserializer).map(Resource::LLMGateway),
            "ProviderAccount" => ProviderAccount::deserialize(deserializer).map(Resource::ProviderAccount),
            "ModelDeployment" => ModelDeployment::deserialize(deserializer).map(Resource::ModelDeployment),
            "RouteGroup" => RouteGroup::deserialize(deserializer).map(Resource::RouteGroup),
            "Team" => Team::deserialize(deserializer).map(Resource::Team),
            "VirtualKey" => VirtualKey::deserialize(deserializer).map(Resource::VirtualKey),
            "Budget" => Budget::deserialize(deserializer).map(Resource::Budget),
            _ => return None,
        })
    }

    /// As JSON, with every default that the schema fills in.
    pub fn to_value(&self) -> serde_json::Value {
        let value = match self {
            Resource::LLMGateway(object) => serde_json::to_value(object),
            Resource::ProviderAccount(object) => serde_json::to_value(object),
            Resource::ModelDeployment(object) => serde_json::to_value(object),
            Resource::RouteGroup(object) => serde_json::to_value(object),
            Resource::Team(object) => serde_json::to_value(object),
            Resource::VirtualKey(object) => serde_json::to_value(object),
            Resource::Budget(object) => serde_json::to_value(object),
        };
        value.expect("our kinds have text keys only, so they are always JSON")
    }

    /// The kind, as in [`Resource::KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Resource::LLMGateway(_) => "LLMGateway",
            Resource::ProviderAccount(_) => "ProviderAccount",
            Resource::ModelDeployment(_) => "ModelDeployment",
            Resource::RouteGroup(_) => "RouteGroup",
            Resource::Team(_) => "Team",
            Resource::VirtualKey(_) => "VirtualKey",
            Resource::Budget(_) => "Budget",
        }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Resource::LLMGateway(object) => &object.metadata,
            Resource::ProviderAccount(object) => &object.metadata,
            Resource::ModelDeployment(object) => &object.metadata,
            Resource::RouteGroup(object) => &object.metadata,
            Resource::Team(object) => &object.metadata,
            Resource::VirtualKey(object) => &object.metadata,
            Resource::Budget(object) => &object.metadata,
        }
    }

    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Resource::LLMGateway(object) => &mut object.metadata,
            Resource::ProviderAccount(object) => &mut object.metadata,
            Resource::ModelDeployment(object) => &mut object.metadata,
            Resource::RouteGroup(object) => &mut object.metadata,
            Resource::Team(object) => &mut object.metadata,
            Resource::VirtualKey(object) => &mut object.metadata,
            Resource::Budget(object) => &mut object.metadata,
        }
    }

    /// The namespace; `None` where a file does not say it.
    pub fn namespace(&self) -> Option<&str> {
        self.metadata().namespace.as_deref()
    }

    /// The name; empty where a file forgot it.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The labels, if there are any.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.metadata().labels.as_ref()
    }
}

macro_rules! from_kind {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Resource {
            fn from(object: $kind) -> Resource {
                Resource::$kind(object)
            }
        })*
    };
}

from_kind!(LLMGateway, ProviderAccount, ModelDeployment, RouteGroup, Team, VirtualKey, Budget);
