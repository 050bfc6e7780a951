//! I/O: the listeners of `tollgate serve`. Which there are is decided at the start; certificates change at any time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use tollgate_dataplane::serve::{self, Listener};
use tollgate_dataplane::tls::{self, Certificate, CertificateError};

use crate::config::listeners::{Listener as Wanted, Tls};

/// What is listened on.
pub struct Open {
    listeners: Vec<OpenListener>,
    /// What was asked for last: a change is told once.
    wanted: Vec<Wanted>,
}

struct OpenListener {
    name: String,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
}

impl Open {
    /// Sockets for the first listener.
    ///
    /// # Errors
    /// The address is not to be had.
    pub fn bind(host: IpAddr, port: u16, cores: usize) -> anyhow::Result<Vec<TcpListener>> {
        let address = SocketAddr::new(host, port);
        serve::bind(address, cores).and_then(serve::listen).with_context(|| format!("cannot listen on {address}"))
    }

    /// Opens all that are asked for. `first`: sockets of the first one, whatever port it asks for. One whose certificate
    /// cannot be used is open as well, and fails every handshake until there is a good one.
    ///
    /// # Errors
    /// An address is not to be had.
    pub fn listeners(
        host: IpAddr,
        mut first: Option<Vec<TcpListener>>,
        wanted: Vec<Wanted>,
        cores: usize,
    ) -> anyhow::Result<(Open, Vec<Listener>)> {
        let mut listeners = Vec::new();
        let mut serving = Vec::new();
        for Wanted { name, port, tls } in &wanted {
            let sockets = match first.take() {
                Some(sockets) => sockets,
                None => Open::bind(host, *port, cores).with_context(|| format!("no listener `{name}`"))?,
            };
            let certificate = tls.as_ref().map(|Tls { place, pem: _ }| Certificate::none(place.clone()));
            let address = sockets[0].local_addr()?;
            serving.push(Listener { sockets, tls: certificate.as_ref().map(Certificate::server_config) });
            listeners.push(OpenListener { name: name.clone(), address, certificate });
        }
        for (listener, wanted) in listeners.iter().zip(&wanted) {
            // What is wrong with it is a finding already.
            let _ = listener.take(wanted);
        }
        Ok((Open { listeners, wanted }, serving))
    }

    /// Takes over new certificates. Listeners that come, go or change otherwise wait for the next start.
    pub fn take(&mut self, wanted: Vec<Wanted>) {
        let shape = |all: &[Wanted]| -> Vec<(String, u16, Option<tls::Place>)> {
            all.iter().map(|one| (one.name.clone(), one.port, one.tls.as_ref().map(|tls| tls.place.clone()))).collect()
        };
        if shape(&wanted) != shape(&self.wanted) {
            tracing::warn!("the listeners of the gateway changed: that takes effect at the next start");
        }
        for wanted in &wanted {
            let Some(listener) = self.listeners.iter().find(|listener| listener.name == wanted.name) else { continue };
            if let Some(certificate) = &listener.certificate {
                tls::tell(listener.take(wanted), certificate.place());
            }
        }
        self.wanted = wanted;
    }

    /// The first listener, as a browser or curl on this machine can reach it.
    pub fn url(&self) -> String {
        self.listeners.first().map(OpenListener::url).unwrap_or_default()
    }

    /// Name and address of the others.
    pub fn others(&self) -> impl Iterator<Item = (&str, String)> {
        self.listeners.iter().skip(1).map(|listener| (&*listener.name, listener.url()))
    }
}

impl OpenListener {
    /// Whether another certificate is in use now. One of another Secret than at the start waits for the next start.
    fn take(&self, wanted: &Wanted) -> Result<bool, CertificateError> {
        match (&self.certificate, &wanted.tls) {
            (Some(certificate), Some(Tls { place, pem: Some(pem) })) if certificate.place() == place => {
                certificate.take(pem.clone())
            }
            (_, _) => Ok(false),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let ip = self.address.ip();
        let host = if ip.is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { ip };
        format!("{scheme}://{}", SocketAddr::new(host, self.address.port()))
    }
}
