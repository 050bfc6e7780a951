//! An attempt that outlives the client who asked for it. The future of a request is dropped when its client hangs up; a
//! provider that was asked goes on working and billing. So the future is finished in the background, bounded in number
//! and time, and what it used is booked exactly.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::admit::RequestPermits;
use crate::core::Core;

/// The client of a call.
#[derive(Debug, Default)]
pub struct Client {
    is_gone: Cell<bool>,
    /// What its call holds of limits, until it is answered.
    permits: RefCell<RequestPermits>,
}

impl Client {
    /// Whether it left before it was answered, so that nothing new is to be begun.
    pub fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// Its call is let in.
    pub fn hold(&self, permits: RequestPermits) {
        self.permits.replace(permits);
    }

    /// What its call holds of limits, for who answers it.
    pub fn take_permits(&self) -> RequestPermits {
        self.permits.take()
    }

    fn leave(&self) {
        self.is_gone.set(true);
        self.permits.borrow_mut().leave();
    }
}

/// Runs a future to its end even if it is dropped before.
pub struct FinishAnyway<F: Future + 'static> {
    future: Option<Pin<Box<F>>>,
    core: Rc<Core>,
    client: Rc<Client>,
}

impl<F: Future + 'static> FinishAnyway<F> {
    /// `client` is gone when the future goes on alone.
    pub fn new(core: &Rc<Core>, client: Rc<Client>, future: Pin<Box<F>>) -> FinishAnyway<F> {
        FinishAnyway { future: Some(future), core: core.clone(), client }
    }
}

impl<F: Future + 'static> Future for FinishAnyway<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.future.as_mut().expect("a future is not polled after it is ready");
        let ready = future.as_mut().poll(cx);
        if ready.is_ready() {
            self.future = None;
        }
        ready
    }
}

impl<F: Future + 'static> Drop for FinishAnyway<F> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        let core = self.core.clone();
        core.bank.own.client_gone.add(1);
        self.client.leave();
        if core.abandoned.get() >= core.shared.settings.max_abandoned {
            // Dropped here: its booking charges the hold.
            return;
        }
        core.abandoned.set(core.abandoned.get() + 1);
        let limit = core.shared.settings.abandoned_timeout;
        tokio::task::spawn_local(async move {
            let _ = tokio::time::timeout(limit, future).await;
            core.abandoned.set(core.abandoned.get() - 1);
        });
    }
}
