//! A client that hides nothing: one connection for each call, every header and byte as it came. I/O.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::sse::{Event, Events};
use crate::{PATIENCE, Value, patiently};

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A response whose body is read event by event. Dropping it closes its connection, as a client that leaves does.
pub struct Streaming {
    pub status: u16,
    pub headers: HeaderMap,
    /// Every byte of the body so far.
    pub raw: Vec<u8>,
    /// The connection broke before the body was complete.
    pub broken: bool,
    body: Incoming,
    events: Events,
    _connection: Connection,
}

/// The task that drives a connection; ends with it.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Call {
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Call {
        Call { address, method: method.into(), path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// `Authorization: Bearer KEY`; takes the place of another one.
    pub fn key(mut self, key: &str) -> Call {
        self.headers.retain(|(name, _)| name != "authorization");
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes away every header of this name.
    pub fn without(mut self, name: &str) -> Call {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub fn json(self, body: &Value) -> Call {
        let text = body.to_string();
        self.without("content-type").header("content-type", "application/json").body(text)
    }

    /// Exactly these bytes.
    pub fn body(mut self, body: impl Into<Bytes>) -> Call {
        self.body = body.into();
        self
    }

    async fn begin(self) -> Result<(http::Response<Incoming>, Connection), String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| format!("no connection: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let connection = Connection(tokio::spawn(async move {
            // What breaks is seen where the body is read.
            let _ = connection.await;
        }));
        let mut request =
            Request::builder().method(&*self.method).uri(&*self.path).header("host", self.address.to_string());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body)).map_err(|error| format!("not a request: {error}"))?;
        let response = sender.send_request(request).await.map_err(|error| format!("no response: {error}"))?;
        Ok((response, connection))
    }

    /// Sends and reads the whole response.
    ///
    /// # Errors
    /// No connection, or it broke: the text says where.
    pub async fn try_send(self) -> Result<Response, String> {
        let exchange = async {
            let (response, _connection) = self.begin().await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("a broken body: {error}"))?.to_bytes();
            Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("no whole response in time".to_owned()))
    }

    /// Sends and reads the whole response.
    ///
    /// # Panics
    /// There is none.
    pub async fn send(self) -> Response {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Sends and reads the head of a stream.
    ///
    /// # Panics
    /// The answer is not 200.
    pub async fn stream(self) -> Streaming {
        let what = format!("the head of {} {}", self.method, self.path);
        let (response, connection) =
            patiently(&what, self.begin()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        if status != 200 {
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            panic!("{what}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Streaming {
            status,
            headers: head.headers,
            raw: Vec::new(),
            broken: false,
            body,
            events: Events::default(),
            _connection: connection,
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The response, if its status is this one.
    ///
    /// # Panics
    /// It is another one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

impl Streaming {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The next event; `None` at the end of the body, also where it broke (see [`Streaming::broken`]).
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop() {
                return Some(event);
            }
            let frame = patiently("the next event", self.body.frame()).await;
            match frame {
                None => return self.events.finish(),
                Some(Err(_)) => {
                    self.broken = true;
                    return None;
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.raw.extend_from_slice(&data);
                        self.events.push(&data);
                    }
                }
            }
        }
    }

    /// All events that are left.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// Everything as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}
