//! The end of a core's turn. What a core does between two looks at its sockets is a turn: all calls that are ready do a
//! step. Each step ends with a send, and a send wakes whoever waits for it on the other side, which costs as much as the
//! step did if it went to sleep after the one before. So calls first do their work, then all of them send.

use std::task::Poll;

/// Ready when the other calls that are ready now did their step.
pub async fn end() {
    let mut is_first = true;
    std::future::poll_fn(|cx| {
        if std::mem::take(&mut is_first) {
            // Behind the others.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
