//! How `tollgate dataplane` stops, and its listeners with TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tollgate_harness::{
    Call, Cluster, Cut, CutHow, Event, KEY, Proxy, ProxyStarter, RawSocket, Reply, Step, json, patiently,
};

/// A request on a connection that stays open; `close` asks for its end.
fn models(address: std::net::SocketAddr) -> String {
    format!("GET /v1/models HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {KEY}\r\n\r\n")
}

#[tokio::test]
async fn a_proxy_that_was_asked_to_stop_takes_connections_for_a_while_and_loses_none() {
    let cluster = Cluster::one().await;
    // Longer than the test: the end of the delay comes from the second signal.
    let mut proxy = ProxyStarter::default().set("--drain-delay", "300").start(&cluster.api).await;
    proxy.wait_until_ready().await;
    let address = proxy.address("http").await;
    let mut open = RawSocket::connect(address).await;
    open.send(models(address)).await;
    open.read_until("\"object\":\"list\"").await;
    assert!(!open.text().contains("connection: close"), "{}", open.text());
    proxy.terminate();
    let not_ready = async {
        while proxy.status("/health/readiness").await.status != 503 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the end of readiness", not_ready).await;
    proxy.status("/health/liveliness").await.expect(200);
    assert_eq!(proxy.snapshot().await["ready"], false);
    // New connections are served, old ones too, and both are told that this was the last answer.
    let reply = proxy.chat("m").await.send().await.expect(200);
    assert_eq!(reply.header("connection"), Some("close"));
    open.received.clear();
    open.send(models(address)).await;
    let text = open.read_to_end().await;
    assert!(open.status() == Some(200) && text.contains("connection: close"), "{text}");
    proxy.terminate();
    assert!(proxy.wait().await.success());
}

#[tokio::test]
async fn streams_finish_while_a_proxy_stops() {
    let cluster = Cluster::one().await;
    let mut proxy = Proxy::start(&cluster.api).await;
    let cut = Cut { after_events: Some(3), how: CutHow::Gate("rest".into()), ..Cut::default() };
    cluster.mock.script("up-m", [Reply { text: Some("a b c d".into()), cut: Some(cut), ..Reply::default() }]);
    let mut stream = proxy.chat_stream("m").await.stream().await;
    stream.next().await.expect("an event");
    let call = proxy.chat("m").await;
    proxy.terminate();
    let closed = async { while call.clone().try_send().await.is_ok() {} };
    patiently("closed listeners", closed).await;
    // The status port answers to the end.
    proxy.status("/health/liveliness").await.expect(200);
    proxy.status("/health/readiness").await.expect(503);
    cluster.mock.open_gate("rest");
    let events = stream.rest().await;
    assert!(!stream.broken && events.last().is_some_and(Event::is_done), "{}", stream.text());
    assert!(proxy.wait().await.success());
}

#[tokio::test]
async fn who_read_a_stream_to_its_end_may_ask_once_more_while_a_proxy_stops() {
    let cluster = Cluster::one().await;
    let mut proxy = Proxy::start(&cluster.api).await;
    let cut = Cut { after_events: Some(3), how: CutHow::Gate("rest".into()), ..Cut::default() };
    cluster.mock.script("up-m", [Reply { text: Some("a b c d".into()), cut: Some(cut), ..Reply::default() }]);
    let address = proxy.address("http").await;
    let mut open = RawSocket::connect(address).await;
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}).to_string();
    let length = body.len();
    open.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
    .await;
    open.read_until("data: ").await;
    let call = proxy.chat("m").await;
    proxy.terminate();
    let closed = async { while call.clone().try_send().await.is_ok() {} };
    patiently("closed listeners", closed).await;
    cluster.mock.open_gate("rest");
    // The head of this answer left when nobody knew that the proxy would stop.
    let text = open.read_until("0\r\n\r\n").await;
    assert!(text.contains("[DONE]") && !text.contains("connection: close"), "{text}");
    open.received.clear();
    open.send(models(address)).await;
    let text = open.read_to_end().await;
    assert!(open.status() == Some(200) && text.contains("connection: close"), "{text}");
    assert!(proxy.wait().await.success());
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request() {
    let cluster = Cluster::one().await;
    let mut old = ProxyStarter::default().set("--drain-delay", "1").start(&cluster.api).await;
    let new = Proxy::start(&cluster.api).await;
    old.wait_until_ready().await;
    // Where a Service leads, as far as its clients know.
    let after = new.address("http").await;
    let (moved, place) = tokio::sync::watch::channel(old.address("http").await);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let place = place.clone();
            tokio::spawn(async move {
                let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
                let mut calls_after = 0;
                while calls_after < 20 {
                    let address = *place.borrow();
                    let call = Call::new(address, "POST", "/v1/chat/completions").key(KEY).json(&body);
                    call.send().await.expect(200);
                    calls_after += u32::from(address == after);
                }
            })
        })
        .collect();
    old.terminate();
    let not_ready = async {
        while old.status("/health/readiness").await.status != 503 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the end of readiness", not_ready).await;
    old.chat("m").await.send().await.expect(200);
    moved.send_replace(after);
    for caller in callers {
        caller.await.expect("no call failed");
    }
    assert!(old.wait().await.success());
}

#[tokio::test]
async fn a_second_signal_cuts_what_is_left() {
    let cluster = Cluster::one().await;
    let mut proxy = Proxy::start(&cluster.api).await;
    cluster.mock.script("up-m", [Step::hang()]);
    let call = tokio::spawn(proxy.chat("m").await.try_send());
    cluster.mock.wait_for_in_flight(1).await;
    proxy.terminate();
    let stopping = async {
        while !proxy.log().contains("stopping") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently("the log's word of stopping", stopping).await;
    proxy.terminate();
    assert!(proxy.wait().await.success());
    assert!(call.await.expect("it ends").is_err());
}

#[tokio::test]
async fn a_proxy_without_tables_stops_at_once() {
    let cluster = Cluster::start(|_| Vec::new()).await;
    let mut proxy = ProxyStarter::default().start(&cluster.api).await;
    proxy.stop().await;
}

/// Puts one of the two pairs into a folder, as a mounted Secret changes: both files at once.
fn put_certificate(folder: &Path, name: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    for (from, to) in [(format!("{name}.crt"), "tls.crt"), (format!("{name}.key"), "tls.key")] {
        std::fs::copy(source.join(from), folder.join(to)).expect("the certificate is copied");
    }
}

/// A TLS connection that trusts one of the two certificates only.
async fn connect(
    address: std::net::SocketAddr,
    trusted: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/certificates/{trusted}.crt"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path).expect("a certificate")).expect("it can be trusted");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tcp = tokio::net::TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

#[tokio::test]
async fn a_listener_speaks_tls_and_takes_a_new_certificate_without_a_restart() {
    let cluster = Cluster::one().await;
    let folder = tempfile::tempdir().expect("a folder");
    put_certificate(folder.path(), "one");
    let named = format!("https={}", folder.path().display());
    let starter = ProxyStarter::default().arguments(["--listen", "https=0", "--tls", &named]);
    let mut proxy = starter.start(&cluster.api).await;
    proxy.wait_until_ready().await;
    let address = proxy.address("https").await;
    let stream = connect(address, "one").await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP over TLS");
    tokio::spawn(connection);
    let request = || {
        let request =
            Request::get("/v1/models").header("host", "localhost").header("authorization", format!("Bearer {KEY}"));
        request.body(Empty::<hyper::body::Bytes>::new()).expect("a request")
    };
    let reply = sender.send_request(request()).await.expect("an answer");
    assert_eq!(reply.status(), 200);
    reply.into_body().collect().await.expect("a body");
    // A pair that does not fit changes nothing, and is said.
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    std::fs::copy(source.join("two.crt"), folder.path().join("tls.crt")).expect("it is copied");
    let said = async {
        while !proxy.log().contains("the certificate that was in use stays in use") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently("a word about the pair", said).await;
    connect(address, "one").await.expect("the old certificate");
    put_certificate(folder.path(), "two");
    let renewed = async {
        while connect(address, "two").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently("the new certificate", renewed).await;
    connect(address, "one").await.expect_err("the old certificate is out of use");
    // Connections go on.
    assert_eq!(sender.send_request(request()).await.expect("an answer").status(), 200);
    // Plain HTTP is not answered where TLS is spoken, and the plain listener is still plain.
    assert!(Call::new(address, "GET", "/v1/models").try_send().await.is_err());
    proxy.chat("m").await.send().await.expect(200);
    drop(sender);
    proxy.stop().await;
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_said_plainly() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(path("kubeconfig"), "{}").expect("it is written");
    let tls = format!("http={}", path("nothing"));
    let ended = tollgate_harness::run([
        "dataplane",
        "--gateway",
        "a/b",
        "--listen",
        "http=0",
        "--status-port",
        "0",
        "--tls",
        &tls,
        "--data",
        &path("data"),
        "--cache",
        &path("cache"),
        "--kubeconfig",
        &path("kubeconfig"),
    ]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("no TLS for the listener `http`") && ended.stderr.contains("tls.crt"), "{ended:?}");
}
