//! The load generator's side of one leg: keep-alive connections that send prepared requests and compare every byte of
//! the replies. It only reacts (`ready`, `fire`); the loop that drives it is `world.rs`.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::http::{Decoder, Side};
use crate::script::{Prompt, Reply};

/// Failures that are kept as text; all are counted.
const FAILURES_TOLD: usize = 4;
/// How long a slice may go on for the requests that are open when its time ends.
pub const GRACE: Duration = Duration::from_secs(30);

/// Who asks for what, one after the other; the same sequence on every leg.
pub struct Picks {
    pub keys: Vec<String>,
    pub models: Vec<String>,
    /// Index of a key and of a model it may use.
    pub sequence: Vec<(u32, u32)>,
}

/// When requests start.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// Each connection asks again as soon as it was answered, for this long.
    Closed(Duration),
    /// This many starts per second whatever the answers do; latency counts from the planned start.
    Open { rate: f64, duration: Duration },
    /// Each connection asks once; starts are spread evenly over this time.
    Once { spread: Duration },
}

/// What a slice gave. `failures` other than zero makes all of it worthless.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    pub requests: u64,
    pub events: u64,
    pub failures: u64,
    pub told: Vec<String>,
    /// Nanoseconds from the (planned) start to the last byte.
    pub latency: Vec<u64>,
    /// Nanoseconds from the (planned) start to the first byte of the body.
    pub first_byte: Vec<u64>,
    pub elapsed: Duration,
}

impl Slice {
    fn fail(&mut self, reason: String) {
        self.failures += 1;
        if self.told.len() < FAILURES_TOLD {
            self.told.push(reason);
        }
    }
}

struct Connection {
    socket: Option<TcpStream>,
    decoder: Decoder,
    before: String,
    behind: String,
    written: usize,
    busy: bool,
    started: Instant,
    first_byte: Option<Instant>,
    received: usize,
    lines: u64,
    differs: bool,
    tail: Vec<u8>,
}

/// All connections of one leg.
pub struct Client {
    address: SocketAddr,
    id: usize,
    token: fn(usize, usize) -> Token,
    prompt: Prompt,
    reply: Reply,
    picks: Arc<Picks>,
    next_pick: usize,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    plan: Plan,
    slice: Slice,
    began: Instant,
    started: u64,
    open: usize,
    body: Vec<u8>,
    scratch: Vec<u8>,
}

impl Client {
    /// A leg of `connections` to `address`; they connect when they are first used.
    pub fn new(
        address: SocketAddr,
        id: usize,
        token: fn(usize, usize) -> Token,
        prompt: Prompt,
        reply: Reply,
        picks: Arc<Picks>,
        connections: usize,
    ) -> Self {
        let now = Instant::now();
        let connection = || Connection {
            socket: None,
            decoder: Decoder::new(Side::Response),
            before: String::new(),
            behind: String::new(),
            written: 0,
            busy: false,
            started: now,
            first_byte: None,
            received: 0,
            lines: 0,
            differs: false,
            tail: Vec::new(),
        };
        Self {
            address,
            id,
            token,
            prompt,
            reply,
            picks,
            next_pick: 0,
            connections: (0..connections).map(|_| connection()).collect(),
            idle: (0..connections).rev().collect(),
            plan: Plan::Closed(Duration::ZERO),
            slice: Slice::default(),
            began: now,
            started: 0,
            open: 0,
            body: Vec::new(),
            scratch: vec![0; 64 * 1024],
        }
    }

    /// Connects what is not connected and starts a slice.
    ///
    /// # Errors
    /// When the proxy does not accept a connection.
    pub fn begin(&mut self, plan: Plan, registry: &Registry) -> io::Result<()> {
        for place in 0..self.connections.len() {
            if self.connections[place].socket.is_none() {
                self.connect(place, registry)?;
            }
        }
        self.plan = plan;
        self.slice = Slice::default();
        self.started = 0;
        self.began = Instant::now();
        Ok(())
    }

    /// Ends the slice and hands out what it gave.
    pub fn take(&mut self) -> Slice {
        let mut slice = std::mem::take(&mut self.slice);
        slice.elapsed = self.began.elapsed();
        for place in 0..self.connections.len() {
            if self.connections[place].busy {
                slice.fail("no complete answer when the slice ended".to_owned());
                self.connections[place].socket = None;
                self.release(place);
            }
        }
        slice
    }

    /// All that was planned is answered, or will not be.
    pub fn is_over(&self, now: Instant) -> bool {
        let age = now.duration_since(self.began);
        let (planned, all_started) = match self.plan {
            Plan::Closed(duration) | Plan::Open { duration, .. } => (duration, age >= duration),
            Plan::Once { spread } => (spread + GRACE, self.started >= self.connections.len() as u64),
        };
        (all_started && self.open == 0) || age >= planned + GRACE
    }

    /// When [`Client::fire`] has work next.
    pub fn next_due(&self) -> Option<Instant> {
        match self.plan {
            Plan::Closed(_) => None,
            Plan::Open { rate, duration } => {
                let due = self.began + Duration::from_secs_f64(self.started as f64 / rate);
                (due < self.began + duration && !self.idle.is_empty()).then_some(due)
            }
            Plan::Once { spread } => {
                let total = self.connections.len() as u32;
                (self.started < u64::from(total)).then(|| self.began + spread * self.started as u32 / total)
            }
        }
    }

    /// Starts what is due at `now`.
    pub fn fire(&mut self, now: Instant, registry: &Registry) {
        if let Plan::Closed(duration) = self.plan {
            // One try per connection and round, so that a proxy that refuses connections cannot hold the loop.
            if now.duration_since(self.began) < duration {
                for place in std::mem::take(&mut self.idle) {
                    self.start(place, Instant::now(), registry);
                }
            }
            return;
        }
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            let Some(place) = self.idle.pop() else { return };
            self.start(place, due, registry);
        }
    }

    /// Handles readiness of the connection at `place`.
    pub fn ready(&mut self, place: usize, event: &Event, registry: &Registry) {
        if event.is_writable() && self.connections[place].busy {
            self.write(place);
        }
        if event.is_readable() {
            self.read(place);
        }
        // Closed loop: the answer asks the next question, without a round through the loop.
        if let Plan::Closed(duration) = self.plan
            && self.idle.last() == Some(&place)
            && self.began.elapsed() < duration
        {
            self.idle.pop();
            self.start(place, Instant::now(), registry);
        }
    }

    fn connect(&mut self, place: usize, registry: &Registry) -> io::Result<()> {
        let socket = StdStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        registry.register(&mut socket, (self.token)(self.id, place), Interest::READABLE | Interest::WRITABLE)?;
        self.connections[place].socket = Some(socket);
        Ok(())
    }

    fn start(&mut self, place: usize, due: Instant, registry: &Registry) {
        self.started += 1;
        // The proxy closed it while it was idle, which is its right.
        if self.connections[place].socket.is_none()
            && let Err(error) = self.connect(place, registry)
        {
            self.slice.fail(format!("connect: {error}"));
            self.idle.push(place);
            return;
        }
        let (key, model) = self.picks.sequence[self.next_pick];
        self.next_pick = (self.next_pick + 1) % self.picks.sequence.len();
        let connection = &mut self.connections[place];
        self.prompt.frame(
            &self.picks.keys[key as usize],
            &self.picks.models[model as usize],
            &mut connection.before,
            &mut connection.behind,
        );
        connection.decoder.reset();
        connection.written = 0;
        connection.busy = true;
        connection.started = due;
        connection.first_byte = None;
        connection.received = 0;
        connection.lines = 0;
        connection.differs = false;
        connection.tail.clear();
        self.open += 1;
        self.write(place);
    }

    fn write(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        let Some(socket) = connection.socket.as_mut() else { return };
        let parts = [connection.before.as_bytes(), &self.prompt.middle, connection.behind.as_bytes()];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        while connection.written < total {
            let mut skip = connection.written;
            let rest = parts.map(|part| {
                let cut = skip.min(part.len());
                skip -= cut;
                IoSlice::new(&part[cut..])
            });
            match socket.write_vectored(&rest) {
                Ok(count) => connection.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.abort(place, format!("write: {error}")),
            }
        }
    }

    fn read(&mut self, place: usize) {
        loop {
            let connection = &mut self.connections[place];
            let Some(socket) = connection.socket.as_mut() else { return };
            let count = match socket.read(&mut self.scratch) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.abort(place, format!("read: {error}")),
            };
            if !connection.busy {
                connection.socket = None;
                if count > 0 {
                    self.slice.fail("bytes that nobody asked for".to_owned());
                }
                return;
            }
            if count == 0 {
                let received = connection.received;
                return self.abort(place, format!("closed after {received} bytes of the body"));
            }
            self.body.clear();
            let done = match connection.decoder.feed(&self.scratch[..count], &mut self.body) {
                Ok(done) => done,
                Err(error) => return self.abort(place, format!("{error:?}")),
            };
            if !self.body.is_empty() {
                connection.first_byte.get_or_insert_with(Instant::now);
                connection.compare(&self.body, &self.reply);
            }
            if done {
                return self.complete(place);
            }
            if count < self.scratch.len() {
                return;
            }
        }
    }

    fn complete(&mut self, place: usize) {
        let now = Instant::now();
        let connection = &mut self.connections[place];
        let status = connection.decoder.status();
        let whole = connection.received == self.reply.bytes.len() && !connection.differs;
        let renamed = connection.received == self.reply.renamed_len && connection.tail == self.reply.tail();
        if status != 200 {
            let text = String::from_utf8_lossy(&self.body).chars().take(200).collect::<String>();
            self.slice.fail(format!("status {status}: {text}"));
        } else if !whole && !renamed {
            let (received, expected) = (connection.received, self.reply.bytes.len());
            self.slice.fail(format!("wrong bytes: {received} in place of {expected}"));
        } else {
            let started = connection.started;
            let nanos = |until: Instant| until.duration_since(started).as_nanos() as u64;
            self.slice.requests += 1;
            if self.reply.events > 0 {
                self.slice.events += connection.lines / 2;
            }
            self.slice.latency.push(nanos(now));
            self.slice.first_byte.push(nanos(connection.first_byte.unwrap_or(now)));
        }
        if !connection.decoder.keep_alive() {
            connection.socket = None;
        }
        self.release(place);
    }

    fn abort(&mut self, place: usize, reason: String) {
        self.connections[place].socket = None;
        if self.connections[place].busy {
            self.slice.fail(reason);
            self.release(place);
        }
    }

    fn release(&mut self, place: usize) {
        self.connections[place].busy = false;
        self.open -= 1;
        self.idle.push(place);
    }
}

impl Connection {
    fn compare(&mut self, piece: &[u8], reply: &Reply) {
        let expected = reply.bytes.get(self.received..self.received + piece.len());
        self.differs |= expected != Some(piece);
        self.received += piece.len();
        if reply.events > 0 {
            self.lines += memchr::memchr_iter(b'\n', piece).count() as u64;
        }
        if self.differs {
            self.tail.extend_from_slice(&piece[piece.len().saturating_sub(reply.tail().len())..]);
            let surplus = self.tail.len().saturating_sub(reply.tail().len());
            self.tail.drain(..surplus);
        }
    }
}
