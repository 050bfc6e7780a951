//! The CustomResourceDefinitions, in a fixed order and as API servers want them.

use crate::{Budget, LLMGateway, ModelDeployment, ProviderAccount, RouteGroup, Team, VirtualKey};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// The definitions of all kinds, in the order of [`crate::Resource::KINDS`].
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![
        LLMGateway::crd(),
        ProviderAccount::crd(),
        ModelDeployment::crd(),
        RouteGroup::crd(),
        Team::crd(),
        VirtualKey::crd(),
        Budget::crd(),
    ];
    for definition in &mut definitions {
        for version in &mut definition.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                refuse_null(schema);
                default_nothing_in_lists(schema, false);
            }
        }
    }
    definitions
}

/// Makes no field nullable. The derive marks every optional field so; but then an API server keeps an explicit null,
/// `has()` in a rule is true of it, and a union with `credential: null` in it is refused. Without the mark the server
/// drops nulls first and applies defaults, which is what templates that render `field:` mean.
fn refuse_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        refuse_null(property);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => refuse_null(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(refuse_null),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        refuse_null(values);
    }
}

/// Leaves defaults of fields inside of lists to readers. kubectl and Argo CD compare a list as a whole: what a server
/// adds to an item would be a difference for ever, and each apply of the same file a change.
fn default_nothing_in_lists(schema: &mut JSONSchemaProps, in_list: bool) {
    if in_list {
        schema.default = None;
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        default_nothing_in_lists(property, in_list);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => default_nothing_in_lists(items, true),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => {
            items.iter_mut().for_each(|item| default_nothing_in_lists(item, true));
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        default_nothing_in_lists(values, in_list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{API_VERSION, GROUP, Resource, VERSION};

    #[test]
    fn definitions_come_in_the_order_of_kinds_in_one_group_and_version() {
        let definitions = all_crds();
        let kinds: Vec<&str> = definitions.iter().map(|definition| definition.spec.names.kind.as_str()).collect();
        assert_eq!(kinds, Resource::KINDS);
        assert_eq!(format!("{GROUP}/{VERSION}"), API_VERSION);
        for definition in &definitions {
            assert_eq!(definition.spec.group, GROUP);
            assert_eq!(definition.spec.scope, "Namespaced");
            assert_eq!(definition.spec.names.categories.as_deref(), Some(&["tollgate".to_owned()][..]));
            let versions: Vec<&str> = definition.spec.versions.iter().map(|version| version.name.as_str()).collect();
            assert_eq!(versions, [VERSION]);
        }
    }
}
