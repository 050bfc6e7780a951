//! One object of any of our kinds: what is read from files and from watches before anybody knows which kind it is.

use crate::{Budget, LLMGateway, ModelDeployment, ProviderAccount, RouteGroup, Team, VirtualKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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
