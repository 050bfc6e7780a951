//! I/O: requests to the status port of a proxy.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tollgate_allocator::rates::{self, Telling};
use tollgate_allocator::{Exchange, Exchanged, tally};

use super::fleet::Told;

/// A proxy is in the same cluster.
const CONNECT: Duration = Duration::from_secs(1);

/// For what a proxy knows.
const PATIENCE: Duration = Duration::from_secs(2);

/// A list of a hundred thousand keys takes longer than one number.
const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// A probe may take the proxy's 15 s, and wait for others before.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// As long as the slowest round of questions takes.
const KEEP_CONNECTION: Duration = Duration::from_secs(45);

/// Names of a hundred thousand keys with their sums, a few times.
const MAX_BODY_BYTES: usize = 32 << 20;

/// Why a proxy gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no answer in time")]
    Timeout,
    #[error("no connection: {0}")]
    Connection(String),
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("answered what cannot be read: {0}")]
    Answer(String),
}

/// Answer to `/operator/used`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Used {
    pub cursor: i64,
    #[serde(default)]
    pub keys: Vec<UsedKey>,
    #[serde(default)]
    pub deployments: Vec<Speed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsedKey {
    /// `namespace/name`
    pub name: String,
    /// Unix seconds.
    pub last_used_at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Speed {
    /// `namespace/name`
    pub name: String,
    pub p50_ms: u64,
}

/// Answer to `/operator/probe`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub ok: bool,
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

/// Asks proxies. Keeps a connection to each; cheap to clone.
#[derive(Clone, Debug)]
pub struct Asker {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Asker {
    fn default() -> Asker {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(KEEP_CONNECTION)
            .pool_timer(TokioTimer::new())
            // One for what budgets need, which is open nearly always, and one for the rest.
            .pool_max_idle_per_host(2)
            .build(connector);
        Asker { client }
    }
}

impl Asker {
    /// What the proxy runs.
    ///
    /// # Errors
    /// [`AskError`]; nothing is tried again.
    pub async fn snapshot(&self, proxy: SocketAddr) -> Result<Told, AskError> {
        self.ask(Method::GET, proxy, "/snapshot", None, Bytes::new(), PATIENCE).await
    }

    /// What was used since `after`, which is the cursor of before or 0.
    ///
    /// # Errors
    /// [`AskError`]; nothing is tried again.
    pub async fn used(&self, proxy: SocketAddr, token: &str, after: i64) -> Result<Used, AskError> {
        let path = format!("/operator/used?after={after}");
        self.ask(Method::GET, proxy, &path, Some(token), Bytes::new(), LONG_PATIENCE).await
    }

    /// Has the proxy probe a deployment (`namespace/name`). `None`: the proxy does not know it.
    ///
    /// # Errors
    /// [`AskError`]; says nothing about the deployment.
    pub async fn probe(&self, proxy: SocketAddr, token: &str, deployment: &str) -> Result<Option<Verdict>, AskError> {
        let body = serde_json::json!({"deployment": deployment}).to_string();
        let asked = self.ask(Method::POST, proxy, "/operator/probe", Some(token), body.into(), PROBE_PATIENCE);
        match asked.await {
            Ok(verdict) => Ok(Some(verdict)),
            Err(AskError::Status(StatusCode::NOT_FOUND)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings a proxy answers about its budgets and hears what they need; the proxy may take a while.
    ///
    /// # Errors
    /// [`AskError`]; nothing is lost, the proxy tells the same again.
    pub async fn allowance(&self, proxy: SocketAddr, token: &str, exchange: &Exchange) -> Result<Exchanged, AskError> {
        let body = serde_json::to_string(exchange).expect("names and numbers are JSON");
        let patience = PATIENCE + Duration::from_millis(exchange.wait_ms);
        self.ask(Method::POST, proxy, "/operator/allowance", Some(token), body.into(), patience).await
    }

    /// Tells a proxy its shares of rate limits and hears how they are used; the proxy may take a while.
    ///
    /// # Errors
    /// [`AskError`]; the proxy tells the same again. Status 404: it is of a version that shares nothing.
    pub async fn rates(&self, proxy: SocketAddr, token: &str, told: &rates::Told) -> Result<Telling, AskError> {
        let body = serde_json::to_string(told).expect("names and numbers are JSON");
        let patience = PATIENCE + Duration::from_millis(told.wait_ms);
        self.ask(Method::POST, proxy, "/operator/rates", Some(token), body.into(), patience).await
    }

    /// What was used and is not taken yet.
    ///
    /// # Errors
    /// [`AskError`]; nothing is lost, the proxy tells the same again. Status 404: it is of a version that tells nothing.
    pub async fn tally(&self, proxy: SocketAddr, token: &str, ask: &tally::Ask) -> Result<tally::Told, AskError> {
        let body = serde_json::to_string(ask).expect("names and numbers are JSON");
        self.ask(Method::POST, proxy, "/operator/tally", Some(token), body.into(), LONG_PATIENCE).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        proxy: SocketAddr,
        path: &str,
        token: Option<&str>,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, AskError> {
        let mut request = Request::builder().method(method).uri(format!("http://{proxy}{path}"));
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| AskError::Answer("the token makes no header".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value).header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| AskError::Answer(error.to_string()))?;
        let answer = async {
            let response =
                self.client.request(request).await.map_err(|error| AskError::Connection(error.to_string()))?;
            if response.status() != StatusCode::OK {
                return Err(AskError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
            let body = body.map_err(|error| AskError::Answer(error.to_string()))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| AskError::Answer(error.to_string()))
        };
        tokio::time::timeout(patience, answer).await.map_err(|_| AskError::Timeout)?
    }
}
