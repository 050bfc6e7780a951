//! Metrics and health over HTTP, each on a port of its own.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::Context;
use crate::error::{Ended, Error};
use crate::metrics::Metrics;
use crate::world::World;

/// What a port serves.
#[derive(Clone)]
enum Page {
    Metrics(Box<Metrics>),
    Health(World),
}

/// Connections of one port at once; more wait. Prometheus and the kubelet need two or three.
const CONNECTIONS: usize = 64;

/// A client that sends no whole request head in this time is dropped.
const HEAD: Duration = Duration::from_secs(5);

/// `/metrics`. Ends only when the port cannot be listened on.
pub async fn serve_metrics(context: Context) -> Ended {
    serve(context.settings.metrics_port, Page::Metrics(Box::new(context.metrics))).await
}

/// `/livez`: the process runs. `/readyz`: everything was listed once. `/healthz`: as `/livez`.
pub async fn serve_health(context: Context) -> Ended {
    serve(context.settings.health_port, Page::Health(context.world)).await
}

async fn serve(port: u16, page: Page) -> Ended {
    let listener = listen(port).await.map_err(|source| Error::Listen { port, source })?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let page = page.clone();
                    connections.spawn(async move {
                        let answer = service_fn(move |request| std::future::ready(answer(&page, &request)));
                        let mut server = hyper::server::conn::http1::Builder::new();
                        server.timer(TokioTimer::new()).header_read_timeout(HEAD);
                        // A client that goes away is not worth a word.
                        let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                    });
                }
                // Out of file descriptors: the next one may be there soon.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Both families; where there is no IPv6, IPv4.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await,
    }
}

fn answer(page: &Page, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, text) = match (page, request.uri().path()) {
        (Page::Metrics(metrics), "/metrics") => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.encode())
        }
        (Page::Health(_), "/livez" | "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (Page::Health(world), "/readyz") => match world.read().is_complete() {
            true => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not everything was listed yet\n".to_owned()),
        },
        _ => (StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
    };
    let response = Response::builder().status(status).header(http::header::CONTENT_TYPE, kind);
    Ok(response.body(Full::new(Bytes::from(text))).expect("the parts are constants"))
}
