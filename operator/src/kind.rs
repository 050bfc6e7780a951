//! The kinds that are watched, and how the API server calls them.

use kube::Resource;
use kube::core::ApiResource;
use tollgate_crds::{Budget, LLMGateway, ModelDeployment, ProviderAccount, RouteGroup, Team, VirtualKey};

/// All kinds, in the order in which everything lists them.
pub const KINDS: [&str; 7] = tollgate_crds::Resource::KINDS;

/// Where objects of the kind are; `None` for a kind that is not ours.
pub fn resource(kind: &str) -> Option<ApiResource> {
    fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    Some(match kind {
        "LLMGateway" => of::<LLMGateway>(),
        "ProviderAccount" => of::<ProviderAccount>(),
        "ModelDeployment" => of::<ModelDeployment>(),
        "RouteGroup" => of::<RouteGroup>(),
        "Team" => of::<Team>(),
        "VirtualKey" => of::<VirtualKey>(),
        "Budget" => of::<Budget>(),
        _ => return None,
    })
}

/// The kind as text that lives as long as the program; `None` for a kind that is not ours.
pub fn find(kind: &str) -> Option<&'static str> {
    KINDS.into_iter().find(|known| *known == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_place() {
        for kind in KINDS {
            let resource = resource(kind).unwrap();
            assert_eq!(resource.kind, kind);
            assert_eq!(resource.api_version, tollgate_crds::API_VERSION);
        }
    }
}
