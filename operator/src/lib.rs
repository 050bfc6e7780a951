//! The operator: watches the resources of a cluster, compiles them into the tables that proxies run, writes those, and
//! says in every object's status what became of it. `snapshot::compile` is the only place that decides; here is only
//! what reads, writes and waits. Never depends on the data plane.

#![forbid(unsafe_code)]
