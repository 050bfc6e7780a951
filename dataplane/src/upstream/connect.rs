//! I/O: opens connections to providers. Every address is judged here, after the name was resolved and right before the
//! connection is made, so that no answer of a name server leads inside.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tollgate_snapshot::may_call;
use tollgate_snapshot::model::Endpoint;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("host `{host}` was not found")]
    Resolve {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("address {address} of host `{host}` may not be called")]
    Forbidden { host: String, address: IpAddr },
    #[error("no connection to `{host}`")]
    Tcp {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no TLS with `{host}`")]
    Tls {
        host: String,
        #[source]
        source: std::io::Error,
    },
}

/// Opens connections. Cheap to share.
#[derive(Clone, Debug)]
pub struct Connector {
    allow_loopback: bool,
    tls: Arc<OnceLock<Arc<rustls::ClientConfig>>>,
}

impl Connector {
    /// `allow_loopback`: standalone, where the model server may be on the same machine.
    pub fn new(allow_loopback: bool) -> Connector {
        Connector { allow_loopback, tls: Arc::default() }
    }

    /// Connects, and speaks TLS where the endpoint says so.
    ///
    /// # Errors
    /// The last address's failure when several were tried. Cancelling closes what was opened.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Stream, ConnectError> {
        let tcp = self.connect_tcp(endpoint).await?;
        // Both legs from the first byte on: Nagle and delayed ACK together cost 40 ms.
        let _ = tcp.set_nodelay(true);
        if !endpoint.tls {
            return Ok(Stream::Plain(tcp));
        }
        let host = || endpoint.host.to_string();
        let name = ServerName::try_from(host())
            .map_err(|error| ConnectError::Tls { host: host(), source: std::io::Error::other(error) })?;
        let config = self.tls.get_or_init(tls_config).clone();
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await;
        tls.map(|tls| Stream::Tls(Box::new(tls))).map_err(|source| ConnectError::Tls { host: host(), source })
    }

    async fn connect_tcp(&self, endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
        let host = &*endpoint.host;
        let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, endpoint.port)],
            Err(_) => tokio::net::lookup_host((host, endpoint.port))
                .await
                .map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?
                .collect(),
        };
        let mut last = None;
        for address in addresses {
            if !may_call(address.ip(), self.allow_loopback) {
                last = Some(ConnectError::Forbidden { host: host.to_owned(), address: address.ip() });
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => last = Some(ConnectError::Tcp { host: host.to_owned(), source }),
            }
        }
        Err(last.unwrap_or_else(|| ConnectError::Resolve {
            host: host.to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "no address"),
        }))
    }
}

/// The platform's certificate authorities; read at the first TLS connection, not at the start.
fn tls_config() -> Arc<rustls::ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "could not read some certificate authorities of this system");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::error!(
            "no certificate authority was found: every https provider will be refused (install ca-certificates)"
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A connection to a provider.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! on_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Tls($stream) => {
                let $stream = $stream.as_mut();
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        on_stream!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        on_stream!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
