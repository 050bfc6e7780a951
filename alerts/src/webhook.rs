//! I/O: sends messages to webhooks. URLs are secrets: they are in no error and no log, where webhooks have the name of
//! their Secret's entry. Addresses are judged after the name was resolved; redirects are not followed.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tollgate_snapshot::may_call;

use crate::state::Delivery;

/// A receiver that does not answer in this time has not got it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that are under way at once.
const AT_ONCE: usize = 8;

/// Why a message was not delivered. Names no part of the URL.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("its URL is not known, or cannot be read")]
    Url,
    #[error("its host was not found")]
    Resolve,
    #[error("its address may not be called")]
    Forbidden,
    #[error("no connection")]
    Connect,
    #[error("no TLS: its certificate is not trusted, or it speaks none")]
    Tls,
    #[error("it does not answer")]
    NoAnswer,
    #[error("it answered {0}")]
    Status(u16),
}

/// Sends messages. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender {
    allow_loopback: bool,
    tls: Arc<OnceLock<Arc<rustls::ClientConfig>>>,
}

impl Sender {
    /// `allow_loopback`: standalone, where the receiver may be on the same machine.
    pub fn new(allow_loopback: bool) -> Sender {
        Sender { allow_loopback, tls: Arc::default() }
    }

    async fn send(&self, url: &str, body: Vec<u8>) -> Result<(), SendError> {
        let uri: Uri = url.parse().map_err(|_| SendError::Url)?;
        let host = uri.host().ok_or(SendError::Url)?.trim_matches(['[', ']']).to_owned();
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(SendError::Url),
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tcp = self.connect(&host, port).await?;
        if !is_tls {
            return post(tcp, &uri, body).await;
        }
        let name = ServerName::try_from(host).map_err(|_| SendError::Url)?;
        let config = self.tls.get_or_init(tls_config).clone();
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map_err(|_| SendError::Tls)?;
        post(tls, &uri, body).await
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, SendError> {
        let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => tokio::net::lookup_host((host, port)).await.map_err(|_| SendError::Resolve)?.collect(),
        };
        let mut last = SendError::Resolve;
        for address in addresses {
            if !may_call(address.ip(), self.allow_loopback) {
                last = SendError::Forbidden;
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(_) => last = SendError::Connect,
            }
        }
        Err(last)
    }
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    body: Vec<u8>,
) -> Result<(), SendError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| SendError::NoAnswer)?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| SendError::Url)?;
    // Driven here, so that nothing outlives the try.
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|_| SendError::NoAnswer)?;
        Ok(answer.status())
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    let status = tokio::select! {
        status = &mut answer => status?,
        // Its end may come with the answer.
        _ = &mut connection => answer.await?,
    };
    if status.is_success() { Ok(()) } else { Err(SendError::Status(status.as_u16())) }
}

/// The platform's certificate authorities; read at the first message over TLS.
fn tls_config() -> Arc<rustls::ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::error!("no certificate authority was found: every https webhook will fail (install ca-certificates)");
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

/// Tries each of them once, and says which were delivered. `url`: by the id of the Secret's entry. Cancel-safe: a message
/// that was under way may have arrived.
pub async fn deliver(
    sender: &Sender,
    due: Vec<Delivery>,
    url: impl Fn(&str) -> Option<Arc<str>>,
) -> Vec<(Delivery, bool)> {
    let tries = due.into_iter().map(|delivery| {
        let url = url(&delivery.webhook);
        async move {
            let body = serde_json::to_vec(&delivery.body).expect("a JSON value is JSON");
            let sent = match url {
                Some(url) => tokio::time::timeout(TIMEOUT, sender.send(&url, body)).await.unwrap_or(Err(SendError::NoAnswer)),
                None => Err(SendError::Url),
            };
            if let Err(error) = &sent {
                let webhook = &delivery.webhook;
                tracing::warn!(%webhook, tries = delivery.tries, %error, "webhook `{webhook}` did not take a message: {error}");
            }
            (delivery, sent.is_ok())
        }
    });
    stream::iter(tries).buffer_unordered(AT_ONCE).collect().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn delivery() -> Delivery {
        let body = serde_json::json!({"text": "hello"});
        Delivery { id: "one".into(), webhook: "n/alerts/url".into(), body, since: 0, tries: 0, next_at: 0 }
    }

    /// Answers one request with this status; gives what was asked.
    async fn receive(listener: TcpListener, status: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"{\"text\":\"hello\"}") {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the request ends with its body");
            seen.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
        String::from_utf8(seen).unwrap()
    }

    #[tokio::test]
    async fn a_message_is_posted_as_json_and_only_success_counts() {
        for (status, delivered) in [("200 OK", true), ("204 No Content", true), ("302 Found", false), ("500 No", false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url: Arc<str> = format!("http://{}/hook?token=x", listener.local_addr().unwrap()).into();
            let sender = Sender::new(true);
            let (seen, sent) =
                tokio::join!(receive(listener, status), deliver(&sender, vec![delivery()], |_| Some(url.clone())));
            assert!(seen.starts_with("POST /hook?token=x HTTP/1.1\r\n"), "{seen}");
            assert!(seen.contains("content-type: application/json\r\n"), "{seen}");
            assert_eq!(sent, [(delivery(), delivered)], "{status}");
        }
    }

    #[tokio::test]
    async fn where_it_may_not_be_sent_it_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let loopback = format!("http://{}/", listener.local_addr().unwrap());
        for url in [&*loopback, "http://169.254.169.254/", "ftp://a/", "nonsense", ""] {
            let sent = deliver(&Sender::new(false), vec![delivery()], |_| Some(url.into())).await;
            assert_eq!(sent, [(delivery(), false)], "{url}");
        }
        assert_eq!(deliver(&Sender::new(true), vec![delivery()], |_| None).await, [(delivery(), false)]);
    }
}
