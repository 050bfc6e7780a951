//! The scripted provider: a lean HTTP/1.1 server of unary replies and paced event streams. It shares the event loop of
//! the load generator (`world.rs`), so that neither waits for the other's time slice, and may not allocate per event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::http::{Decoder, Side};
use crate::script::{self, PROVIDER_KEY, PROVIDER_MODEL_PREFIX, Stream};

/// Only the ends of a body are searched for fields, as a 200 KB prompt holds none of them in its middle.
const FIELD_WINDOW: usize = 1024;
const SPLIT_GAP: Duration = Duration::from_millis(1);

/// What the provider saw. Taken before and behind a slice, the difference is what the proxy under test really sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub requests: u64,
    /// Requests that name a provider's model in place of the public one.
    pub rewritten: u64,
    /// Requests with the provider's credential.
    pub authorized: u64,
    /// Events written to streams, `[DONE]` not counted.
    pub events: u64,
    /// Requests that this server could not read.
    pub malformed: u64,
}

/// How the provider answers, for one cell.
#[derive(Clone, Debug)]
pub struct Answers {
    pub unary: Vec<u8>,
    pub stream: Stream,
    /// Between two events of one stream.
    pub gap: Duration,
    /// Before a reply or the first event.
    pub delay: Duration,
    pub split: bool,
}

struct Connection {
    socket: TcpStream,
    decoder: Decoder,
    body: Vec<u8>,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
    job: Option<Job>,
    /// Tells a timer of an earlier connection in the same place from one of this.
    serial: u64,
}

#[derive(Clone, Copy)]
struct Job {
    stream: bool,
    usage: bool,
    next_event: usize,
    half_sent: bool,
    due: Instant,
}

/// The server with its connections and timers.
pub struct Upstream {
    listener: TcpListener,
    address: SocketAddr,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    answers: Answers,
    seen: Seen,
    serial: u64,
    scratch: Vec<u8>,
    token: fn(usize) -> Token,
}

impl Upstream {
    /// Listens on 127.0.0.1; port 0 takes a free one. `token` places a connection in the owner's token space.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn bind(
        port: u16,
        registry: &Registry,
        listener_token: Token,
        token: fn(usize) -> Token,
        answers: Answers,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        socket.listen(4096)?;
        let mut listener = TcpListener::from_std(socket.into());
        registry.register(&mut listener, listener_token, Interest::READABLE)?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            connections: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            answers,
            seen: Seen::default(),
            serial: 0,
            scratch: vec![0; 256 * 1024],
            token,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Replaces the script; streams that run go on with the new events, so call it between cells.
    pub fn script(&mut self, answers: Answers) {
        self.answers = answers;
    }

    /// When [`Upstream::fire`] has work next.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((due, _, _))| *due)
    }

    /// Accepts what waits.
    ///
    /// # Errors
    /// When the listener itself fails.
    pub fn accept(&mut self, registry: &Registry) -> io::Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            registry.register(&mut socket, (self.token)(place), Interest::READABLE | Interest::WRITABLE)?;
            self.serial += 1;
            self.connections[place] = Some(Connection {
                socket,
                decoder: Decoder::new(Side::Request),
                body: Vec::new(),
                unsent: Vec::new(),
                job: None,
                serial: self.serial,
            });
        }
    }

    /// Handles readiness of the connection at `place`.
    pub fn ready(&mut self, place: usize, event: &Event) {
        let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) else { return };
        let alive = if event.is_writable() && !connection.unsent.is_empty() { connection.flush() } else { true };
        let alive = alive && (!event.is_readable() || self.read(place));
        if !alive {
            self.drop_connection(place);
        }
    }

    /// Writes what is due at `now`.
    pub fn fire(&mut self, now: Instant) {
        while let Some(Reverse((due, place, serial))) = self.timers.peek().copied() {
            if due > now {
                return;
            }
            self.timers.pop();
            let current = self.connections.get(place).and_then(Option::as_ref).map(|connection| connection.serial);
            if current == Some(serial) && !self.step(place) {
                self.drop_connection(place);
            }
        }
    }

    fn drop_connection(&mut self, place: usize) {
        if self.connections[place].take().is_some() {
            self.free.push(place);
        }
    }

    /// False when the connection is over.
    fn read(&mut self, place: usize) -> bool {
        loop {
            let Some(connection) = self.connections[place].as_mut() else { return false };
            let count = match connection.socket.read(&mut self.scratch) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            match connection.decoder.feed(&self.scratch[..count], &mut connection.body) {
                Ok(false) => {}
                Ok(true) => {
                    if !self.begin(place) {
                        return false;
                    }
                }
                Err(_) => {
                    self.seen.malformed += 1;
                    return false;
                }
            }
            // A short read has emptied the socket: the next byte raises a new edge.
            if count < self.scratch.len() {
                return true;
            }
        }
    }

    /// A whole request is here: counts it and answers, now or by timer.
    fn begin(&mut self, place: usize) -> bool {
        let Some(connection) = self.connections[place].as_mut() else { return false };
        let body = &connection.body;
        let windows = [&body[..body.len().min(FIELD_WINDOW)], &body[body.len().saturating_sub(FIELD_WINDOW)..]];
        let contains = |needle: &[u8]| windows.iter().any(|window| memmem::find(window, needle).is_some());
        let stream = contains(b"\"stream\":true");
        self.seen.requests += 1;
        self.seen.rewritten += u64::from(contains(PROVIDER_MODEL_PREFIX.as_bytes()));
        self.seen.authorized += u64::from(memmem::find(connection.decoder.head(), PROVIDER_KEY.as_bytes()).is_some());
        let usage = stream && contains(b"\"include_usage\":true");
        let due = Instant::now() + self.answers.delay;
        connection.job = Some(Job { stream, usage, next_event: 0, half_sent: false, due });
        connection.body.clear();
        connection.decoder.reset();
        if self.answers.delay.is_zero() {
            return self.step(place);
        }
        self.timers.push(Reverse((due, place, connection.serial)));
        true
    }

    /// Writes the next part of the job at `place` and sets the timer of the one behind it.
    fn step(&mut self, place: usize) -> bool {
        let Self { connections, answers, timers, seen, .. } = self;
        let Some(connection) = connections[place].as_mut() else { return false };
        let Some(mut job) = connection.job.take() else { return true };
        if !job.stream {
            return connection.send(&[&answers.unary]);
        }
        let script = &answers.stream;
        let event = &script.events[job.next_event];
        let half = event.len() / 2;
        let head: &[u8] = if job.next_event == 0 && !job.half_sent { &script.head } else { b"" };
        if answers.split && !job.half_sent {
            job.half_sent = true;
            timers.push(Reverse((job.due + SPLIT_GAP, place, connection.serial)));
            connection.job = Some(job);
            return connection.send(&[head, &event[..half]]);
        }
        let rest = if job.half_sent { &event[half..] } else { &event[..] };
        job.half_sent = false;
        job.next_event += 1;
        seen.events += 1;
        if job.next_event < script.events.len() {
            job.due += answers.gap;
            timers.push(Reverse((job.due, place, connection.serial)));
            connection.job = Some(job);
            return connection.send(&[head, rest]);
        }
        let usage: &[u8] = if job.usage { &script.usage } else { b"" };
        seen.events += u64::from(job.usage);
        // Providers write the last content, the usage and the end one by one.
        connection.send(&[head, rest])
            && (usage.is_empty() || connection.send(&[usage]))
            && connection.send(&[&script.done])
    }
}

impl Connection {
    /// False when the connection is over. Unsent bytes wait for readiness.
    fn send(&mut self, parts: &[&[u8]]) -> bool {
        let from = self.unsent.len();
        if from == 0
            && let [only] = parts
        {
            return match self.socket.write(only) {
                Ok(count) => {
                    self.unsent.extend_from_slice(&only[count..]);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(only);
                    true
                }
                Err(_) => false,
            };
        }
        for part in parts {
            self.unsent.extend_from_slice(part);
        }
        from != 0 || self.flush()
    }

    fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(count) => {
                    self.unsent.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// The answers of one cell: `events` per stream at `rate` events per second.
pub fn answers(shape: &script::Shape, events: usize, rate: f64, public_model_len: usize) -> Answers {
    Answers {
        unary: script::unary(shape, public_model_len).0,
        stream: script::stream(shape, events, public_model_len).0,
        gap: Duration::from_secs_f64(1.0 / rate),
        delay: Duration::from_millis(shape.delay_ms),
        split: shape.split,
    }
}
