//! Headers that say who is behind a call and what it is for.

use tollgate_snapshot::Reason;

use crate::world::{Ask, World};

#[test]
fn headers_are_taken_once_and_none_that_holds_a_credential() {
    let world = World::read(
        "
kind: LLMGateway
metadata: {name: g}
spec:
  attribution:
    endUserHeaders: [X-Customer, x-customer, 'X Y', AUTHORIZATION, X-Email]
    tagHeaders: [X-Project, Cookie, x-project]
",
    );
    let compiled = world.compile();
    let names =
        |names: &[tollgate_snapshot::model::Name]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let gateway = &compiled.snapshot.gateway;
    assert_eq!(names(&gateway.end_user_headers), ["x-customer", "x-email"]);
    assert_eq!(names(&gateway.tag_headers), ["X-Project"]);
    let said: Vec<(String, bool)> = compiled
        .said("g", Reason::InvalidValue)
        .iter()
        .map(|finding| (finding.field.clone(), finding.message.contains("credential")))
        .collect();
    let (users, tags) = ("spec.attribution.endUserHeaders".to_owned(), "spec.attribution.tagHeaders".to_owned());
    assert_eq!(said, [(users.clone(), true), (users, false), (tags, true)]);
}
