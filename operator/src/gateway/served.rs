//! Which gateways can be run at all. One that cannot (its namespace is not prepared, its name is taken) must not take keys
//! away from those that can, whoever made it. Pure.

use tollgate_crds::ConditionStatus;
use tollgate_snapshot::GatewayName;
use tollgate_snapshot::compile::{Gateways, Standing};

use crate::facts::{GatewayFact, Known, Named};
use crate::status::{ACCEPTED, PROGRAMMED};
use crate::world::{Objects, Seen};

/// Problems of a gateway's children that its spec or its namespace must cure; others pass with time.
pub const OF_SPEC: [&str; 6] =
    ["Forbidden", "Invalid", "InvalidName", "NameTaken", "NamespaceNotPrepared", "PortTaken"];

/// What compile should know of the gateways. `home`: the operator's own namespace.
pub fn standing(objects: &Objects, known: &Known, home: &str) -> Standing {
    let mut standing = Standing { home: Some(home.to_owned()), ..Standing::default() };
    for (gateway, record) in objects.gateways() {
        let name = (gateway.meta.namespace.clone(), gateway.meta.name.clone());
        // Of a gateway of the operator's own namespace nothing bad is thought before it is known.
        let presumed = *name.0 == *home || was_served(&record.seen);
        if !is_served(known.gateway(&name, record), presumed) {
            standing.unserved.insert(GatewayName { namespace: name.0, name: name.1 });
        }
    }
    standing
}

/// The gateway that objects attach to which name none.
pub fn default(objects: &Objects, known: &Known, home: &str) -> Option<Named> {
    let standing = standing(objects, known, home);
    let gateways = Gateways::new(objects.documents(), objects.namespaces(), &standing);
    gateways.default_name().map(|GatewayName { namespace, name }| (namespace, name))
}

/// `presumed`: what is thought of it as long as nobody could look at what runs for it.
fn is_served(fact: Option<&GatewayFact>, presumed: bool) -> bool {
    match fact {
        // One that runs goes on when an edit of it is refused.
        Some(fact) if fact.is_looked_at => !fact.is_refused() || fact.replicas > 0,
        Some(_) | None => presumed,
    }
}

/// What its status says, until this process has looked itself. A new gateway has none.
fn was_served(seen: &Seen) -> bool {
    let is_accepted = seen.condition(ACCEPTED).is_some_and(|condition| condition.status == ConditionStatus::True);
    // Proxies have its tables, or are about to.
    let runs = seen.condition(PROGRAMMED).is_some_and(|condition| {
        condition.status == ConditionStatus::True
            || matches!(&*condition.reason, "Pending" | "ProxyRefused" | "LastGoodKept")
    });
    is_accepted || runs
}

#[cfg(test)]
mod tests {
    use tollgate_crds::TimestampText;

    use super::*;
    use crate::facts::Problem;
    use crate::world::SeenCondition;

    fn fact(reason: Option<&'static str>, replicas: i32, is_looked_at: bool) -> GatewayFact {
        let problem = reason.map(|reason| Problem { reason, message: String::new() });
        GatewayFact { replicas, problem, is_looked_at, ..GatewayFact::default() }
    }

    #[test]
    fn what_cannot_be_run_is_not_served_unless_it_runs() {
        for (fact, presumed, served) in [
            (None, true, true),
            (None, false, false),
            (Some(fact(None, 0, true)), false, true),
            (Some(fact(Some("PodsRefused"), 0, true)), false, true),
            (Some(fact(Some("NamespaceNotPrepared"), 0, true)), true, false),
            (Some(fact(Some("Invalid"), 2, true)), false, true),
            // Nobody knows how many pods there are.
            (Some(fact(Some("Forbidden"), 0, false)), true, true),
            (Some(fact(Some("Forbidden"), 0, false)), false, false),
        ] {
            assert_eq!(is_served(fact.as_ref(), presumed), served, "{fact:?} {presumed}");
        }
    }

    #[test]
    fn a_new_process_thinks_of_a_gateway_as_its_status_says() {
        use ConditionStatus::{False, True, Unknown};
        for (accepted, programmed, served) in [
            ((True, "Accepted"), (Unknown, "NoProxies"), true),
            ((Unknown, "Pending"), (Unknown, "NoProxies"), false),
            ((Unknown, "Pending"), (True, "Programmed"), true),
            ((False, "Forbidden"), (False, "Forbidden"), false),
            ((False, "Duplicate"), (Unknown, "NoProxies"), false),
            ((False, "InvalidValue"), (False, "Pending"), true),
        ] {
            let condition = |type_: &str, (status, reason): (ConditionStatus, &str)| SeenCondition {
                type_: type_.into(),
                status,
                reason: reason.into(),
                since: TimestampText::new("2026-01-01T00:00:00Z"),
            };
            let conditions = vec![condition(ACCEPTED, accepted), condition(PROGRAMMED, programmed)];
            assert_eq!(was_served(&Seen { conditions, ..Seen::default() }), served, "{accepted:?} {programmed:?}");
        }
        assert!(!was_served(&Seen::default()));
    }
}
