//! The one thread that is everything but the proxy: scripted upstream and load generator in one event loop, so that
//! their own scheduling adds nothing to what is measured. Only `run` advances time.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::client::{Client, Plan, Slice};
use crate::upstream::{Answers, Seen, Upstream};

const LISTENER: Token = Token(0);
/// The lowest two bits of a token say whose it is.
const UPSTREAM: usize = 1;
const CLIENT: usize = 2;
const CLIENT_BITS: u32 = 8;
/// `epoll_wait` sleeps whole milliseconds; what is due sooner is polled for, else events would come in bunches.
const POLL_BELOW: Duration = Duration::from_millis(1);

fn upstream_token(place: usize) -> Token {
    Token((place << 2) | UPSTREAM)
}

fn client_token(client: usize, place: usize) -> Token {
    Token((place << (2 + CLIENT_BITS)) | (client << 2) | CLIENT)
}

/// Upstream and clients on one poll.
pub struct World {
    poll: Poll,
    events: Events,
    upstream: Upstream,
    clients: Vec<Client>,
}

impl World {
    /// # Errors
    /// When the upstream's port cannot be bound.
    pub fn new(port: u16, answers: Answers) -> io::Result<Self> {
        let poll = Poll::new()?;
        let upstream = Upstream::bind(port, poll.registry(), LISTENER, upstream_token, answers)?;
        Ok(Self { poll, events: Events::with_capacity(4096), upstream, clients: Vec::new() })
    }

    pub fn upstream(&self) -> SocketAddr {
        self.upstream.address()
    }

    pub fn seen(&self) -> Seen {
        self.upstream.seen()
    }

    /// Starts a cell: a new script, no clients.
    pub fn script(&mut self, answers: Answers) {
        self.clients.clear();
        self.upstream.script(answers);
    }

    /// Adds a leg; `make` gets its number and how its tokens are made.
    pub fn add(&mut self, make: impl FnOnce(usize, fn(usize, usize) -> Token) -> Client) -> usize {
        let id = self.clients.len();
        assert!(id < 1 << CLIENT_BITS, "a token has room for {} legs", 1 << CLIENT_BITS);
        self.clients.push(make(id, client_token));
        id
    }

    /// One slice of one leg, from its first request to the last answer.
    ///
    /// # Errors
    /// When the proxy accepts no connection or the poll fails; failed requests are counted in the slice.
    pub fn run(&mut self, client: usize, plan: Plan) -> io::Result<Slice> {
        self.clients[client].begin(plan, self.poll.registry())?;
        loop {
            let now = Instant::now();
            self.clients[client].fire(now, self.poll.registry());
            if self.clients[client].is_over(now) {
                return Ok(self.clients[client].take());
            }
            let due = self.clients[client].next_due();
            self.turn(due)?;
        }
    }

    /// Serves whatever comes for `duration`, without starting anything.
    ///
    /// # Errors
    /// When the poll fails.
    pub fn serve(&mut self, duration: Duration) -> io::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.turn(Some(end))?;
        }
        Ok(())
    }

    fn turn(&mut self, due: Option<Instant>) -> io::Result<()> {
        let now = Instant::now();
        let wait = [due, self.upstream.next_due()]
            .into_iter()
            .flatten()
            .min()
            .map_or(Duration::from_millis(50), |due| due.saturating_duration_since(now));
        let wait = if wait <= POLL_BELOW { Duration::ZERO } else { wait - POLL_BELOW };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            let Token(bits) = event.token();
            match bits & 3 {
                UPSTREAM => self.upstream.ready(bits >> 2, event),
                CLIENT => {
                    let client = (bits >> 2) & ((1 << CLIENT_BITS) - 1);
                    self.clients[client].ready(bits >> (2 + CLIENT_BITS), event, self.poll.registry());
                }
                _ => self.upstream.accept(self.poll.registry())?,
            }
        }
        self.upstream.fire(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::Picks;
    use crate::script::{self, Prompt};
    use crate::{Arguments, upstream};
    use clap::Parser;

    fn world(stream: bool, connections: usize, extra: &[&str]) -> World {
        let arguments = [&["tollgate-bench"], extra].concat();
        let shape = Arguments::parse_from(arguments).shape;
        let mut world = World::new(0, upstream::answers(&shape, 5, 500.0, 5)).unwrap();
        let reply = if stream { script::stream(&shape, 5, 5).1 } else { script::unary(&shape, 5).1 };
        let picks = Picks { keys: vec!["sk-a".into()], models: vec!["model".into()], sequence: vec![(0, 0)] };
        let prompt = Prompt::new(&shape, 1024, stream, "h");
        let address = world.upstream();
        world.add(|id, token| Client::new(address, id, token, prompt, reply, Arc::new(picks), connections));
        world
    }

    #[test]
    fn a_direct_leg_answers_every_request_with_the_right_bytes() {
        let mut world = world(false, 8, &[]);
        let slice = world.run(0, Plan::Closed(Duration::from_millis(50))).unwrap();
        assert_eq!((slice.failures, slice.told.as_slice()), (0, &[][..]));
        assert!(slice.requests > 0);
        assert_eq!(world.seen().requests, slice.requests);
    }

    #[test]
    fn streams_arrive_whole_in_every_shape() {
        for extra in [&[][..], &["--crlf", "--split"], &["--ask-usage", "--chunked"]] {
            let mut world = world(true, 4, extra);
            let slice = world.run(0, Plan::Once { spread: Duration::from_millis(4) }).unwrap();
            assert_eq!((slice.requests, slice.failures), (4, 0), "{extra:?}: {:?}", slice.told);
            let usage = u64::from(extra.contains(&"--ask-usage"));
            assert_eq!(slice.events, 4 * (5 + 1 + usage));
        }
    }

    #[test]
    fn an_open_loop_starts_what_was_planned() {
        let mut world = world(false, 8, &[]);
        let slice = world.run(0, Plan::Open { rate: 1000.0, duration: Duration::from_millis(100) }).unwrap();
        assert_eq!((slice.requests, slice.failures), (100, 0));
    }

    #[test]
    fn wrong_bytes_are_a_failure() {
        let mut world = world(false, 1, &[]);
        let other = Arguments::parse_from(["tollgate-bench", "--reply-bytes", "900"]).shape;
        world.upstream.script(upstream::answers(&other, 5, 500.0, 5));
        let slice = world.run(0, Plan::Closed(Duration::from_millis(5))).unwrap();
        assert!(slice.failures > 0 && slice.requests == 0);
        assert!(slice.told[0].starts_with("wrong bytes"), "{:?}", slice.told);
    }
}
