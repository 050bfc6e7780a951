//! The clock of one connection. Setting a timer costs more than a look at it, and nearly no call needs one: it is set
//! for the first call and stands still while later calls have more time; when it goes off too early it is set anew.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is used again and again.
#[derive(Debug, Default)]
pub struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready from `until` on.
    pub fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How long it takes until the alarm goes off, milliseconds.
    async fn wait(alarm: &mut Alarm, ms: u64) -> u64 {
        let begun = Instant::now();
        let until = begun + Duration::from_millis(ms);
        std::future::poll_fn(|cx| alarm.poll(until, cx)).await;
        begun.elapsed().as_millis() as u64
    }

    #[tokio::test]
    async fn it_goes_off_in_time_whatever_it_was_set_to_before() {
        let mut alarm = Alarm::default();
        std::future::poll_fn(|cx| {
            assert!(alarm.poll(Instant::now() + Duration::from_secs(600), cx).is_pending());
            Poll::Ready(())
        })
        .await;
        for ms in [20, 60, 10, 0] {
            let took = wait(&mut alarm, ms).await;
            assert!(took >= ms && took < ms + 5_000, "{took} of {ms}");
        }
    }
}
