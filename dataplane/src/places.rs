//! Places for connections, where anybody may connect and some must be answered: a new connection gets in at once, and
//! the one that has said nothing for longest leaves. Of one thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What a connection has to say something, however many want its place. It bounds how many come and go, too: with 256
/// places 5,000 each second, so that a full queue of the kernel (4,096) is through before a probe gives up.
const LEAST: Duration = Duration::from_millis(50);

/// Places, and who waits in them.
pub struct Places {
    free: Cell<usize>,
    /// Somebody left, or waits now. Nobody but [`Places::take`] waits for it.
    left: Notify,
    turns: Cell<u64>,
    /// Connections that have a place and no request, by turn: those that have waited longest first.
    waiting: RefCell<BTreeMap<u64, Waiting>>,
}

struct Waiting {
    since: Instant,
    leave: Rc<Notify>,
}

/// One of the places, until it is dropped.
pub struct Place {
    places: Rc<Places>,
    leave: Rc<Notify>,
    /// While it waits.
    turn: Cell<Option<u64>>,
}

impl Places {
    pub fn new(places: usize) -> Rc<Places> {
        Rc::new(Places { free: places.into(), left: Notify::new(), turns: 0.into(), waiting: RefCell::default() })
    }

    /// A place: one that is free, else that of the connection that has waited longest, as soon as it is gone. Waits while
    /// all are busy. To be called by one task only.
    pub async fn take(self: &Rc<Places>) -> Place {
        while self.free.get() == 0 {
            match self.longest_wait() {
                Some(waited) if waited < LEAST => {
                    let _ = tokio::time::timeout(LEAST - waited, self.left.notified()).await;
                }
                Some(_) => {
                    self.send_away();
                    while self.free.get() == 0 {
                        self.left.notified().await;
                    }
                }
                None => self.left.notified().await,
            }
        }
        self.free.set(self.free.get() - 1);
        let place = Place { places: self.clone(), leave: Rc::default(), turn: None.into() };
        place.wait();
        place
    }

    fn longest_wait(&self) -> Option<Duration> {
        self.waiting.borrow().first_key_value().map(|(_, waiting)| waiting.since.elapsed())
    }

    fn send_away(&self) {
        if let Some((_, waiting)) = self.waiting.borrow_mut().pop_first() {
            waiting.leave.notify_one();
        }
    }
}

impl Place {
    /// There is a request: the place is kept until it is answered.
    pub fn work(&self) {
        if let Some(turn) = self.turn.take() {
            self.places.waiting.borrow_mut().remove(&turn);
        }
    }

    /// There is none, or none any more.
    pub fn wait(&self) {
        self.work();
        let turn = self.places.turns.get();
        self.places.turns.set(turn + 1);
        self.turn.set(Some(turn));
        let waiting = Waiting { since: Instant::now(), leave: self.leave.clone() };
        self.places.waiting.borrow_mut().insert(turn, waiting);
        self.places.left.notify_one();
    }

    /// Until the place is wanted for another.
    pub async fn wanted(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.work();
        self.places.free.set(self.places.free.get() + 1);
        self.places.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is ready by now.
    async fn is_ready<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::ZERO, future).await.ok()
    }

    #[tokio::test]
    async fn who_has_waited_longest_leaves_and_who_works_stays() {
        let places = Places::new(3);
        let working = places.take().await;
        working.work();
        let (first, second) = (places.take().await, places.take().await);
        // It was answered once: the other has waited longer now.
        first.work();
        first.wait();
        let mut fourth = Box::pin(places.take());
        tokio::select! {
            _ = &mut fourth => panic!("nobody has left yet"),
            () = second.wanted() => {}
        }
        assert!(is_ready(&mut fourth).await.is_none());
        drop(second);
        let fourth = fourth.await;
        assert!(is_ready(first.wanted()).await.is_none() && is_ready(working.wanted()).await.is_none());
        // Nobody waits: a new one does until somebody has been answered.
        first.work();
        fourth.work();
        let mut fifth = Box::pin(places.take());
        assert!(is_ready(&mut fifth).await.is_none());
        working.wait();
        tokio::select! {
            _ = &mut fifth => panic!("nobody has left yet"),
            () = working.wanted() => {}
        }
        drop(working);
        fifth.await;
        assert_eq!((places.free.get(), places.waiting.borrow().len()), (1, 0));
    }
}
