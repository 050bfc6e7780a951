//! The listeners of a gateway that is served from files: their ports, and certificates from Secrets among the files.

use tollgate_crds::{LLMGatewaySpec, ListenerTls, LocalRef};
use tollgate_dataplane::tls::{CERTIFICATE, KEY, Pem, Place};
use tollgate_snapshot::compile::{Document, Secrets};
use tollgate_snapshot::model::Gateway;
use tollgate_snapshot::{Finding, ObjectRef, Reason};

/// A listener that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub port: u16,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
}

/// Where a listener's certificate comes from, and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub place: Place,
    /// `None`: not both entries are there.
    pub pem: Option<Pem>,
}

/// Those of the gateway that is served, at least one, and what is wrong with certificates that are there.
pub fn of(documents: &[Document], secrets: &Secrets, gateway: &Gateway) -> (Vec<Listener>, Vec<Finding>) {
    let document = documents.iter().find_map(|document| match document {
        Document::LLMGateway(object)
            if *object.meta.namespace == *gateway.namespace && *object.meta.name == *gateway.name =>
        {
            Some(&object.spec)
        }
        _ => None,
    });
    let usual = LLMGatewaySpec::default();
    let LLMGatewaySpec { listeners, .. } = document.unwrap_or(&usual);
    let object =
        ObjectRef { kind: "LLMGateway", namespace: gateway.namespace.to_string(), name: gateway.name.to_string() };
    let mut findings = Vec::new();
    let mut all = Vec::new();
    for (at, listener) in listeners.iter().enumerate() {
        let tls = listener.tls.as_ref().map(|ListenerTls { certificate_ref: LocalRef { name } }| {
            let place = Place::Secret { namespace: object.namespace.clone(), name: name.clone() };
            let entry = |entry: &str| {
                let text = secrets.get(&object.namespace, name)?.data.get(entry)?;
                Some(text.as_bytes().to_vec())
            };
            let pem = entry(CERTIFICATE).zip(entry(KEY)).map(|(certificate, key)| Pem { certificate, key });
            Tls { place, pem }
        });
        if let Some(Tls { place, pem: Some(pem) }) = &tls
            && let Err(error) = pem.check(place)
        {
            let field = format!("spec.listeners[{at}].tls.certificateRef");
            findings.push(Finding::error(&object, Reason::InvalidValue, field, error.to_string()));
        }
        // What a cluster's schema refuses, a file may say.
        let port = u16::try_from(listener.port).ok().filter(|port| *port != 0);
        let is_taken = |port: &u16| all.iter().any(|other: &Listener| other.port == *port);
        match port.filter(|port| !is_taken(port)) {
            Some(port) => all.push(Listener { name: listener.name.clone(), port, tls }),
            None => {
                let message = format!("{} is no port, or that of another listener", listener.port);
                let field = format!("spec.listeners[{at}].port");
                findings.push(Finding::error(&object, Reason::InvalidValue, field, message));
            }
        }
    }
    if all.is_empty() {
        all.push(Listener { name: "http".to_owned(), port: 4000, tls: None });
    }
    (all, findings)
}
