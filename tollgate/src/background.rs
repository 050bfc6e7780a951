//! A thread for work that no call waits for, behind those that serve.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::thread::JoinHandle;

use rustix::process::getpriority_process;
use rustix::thread::gettid;
use tokio::sync::oneshot;

/// As `nice` counts. Where processors are short, a quarter of one is left for this: a change of the configuration is to be
/// seen in half a second also then.
const NICENESS: i32 = 5;

/// What is asked of the scheduler for one turn, in nanoseconds: the most that it gives. Threads with shorter turns, which are
/// all others, go first as soon as they have something to do and have not had more than their part (Linux 6.12 and
/// later). Else, and by older ones, a call may wait until the next tick: milliseconds.
const TURN: u64 = 100_000_000;

/// A thread with a runtime of its own. Its helpers, such as those that may block, have its priority too.
pub struct Background<T> {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<T>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts what `begin` makes.
    ///
    /// # Errors
    /// No thread or runtime is to be had.
    pub fn start<F: Future<Output = T>>(
        name: &str,
        begin: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Background<T>> {
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            // Where it cannot be, the thread is like any other.
            let _ = go_behind();
            runtime.block_on(async {
                tokio::select! {
                    output = begin() => drop(end.send(output)),
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Background { stop, ended, thread })
    }

    /// Until it ends by itself. Cancel-safe.
    ///
    /// # Errors
    /// It panicked.
    pub async fn ended(&mut self) -> anyhow::Result<T> {
        (&mut self.ended).await.map_err(|_| anyhow::anyhow!("a background thread panicked"))
    }

    /// Ends it, after what it does without a pause.
    pub async fn stop(self) {
        let Background { stop, ended: _, thread } = self;
        drop(stop);
        // Its panic was told when it came.
        let _ = tokio::task::spawn_blocking(|| thread.join()).await;
    }
}

fn go_behind() -> io::Result<()> {
    let nice = getpriority_process(Some(gettid()))? + NICENESS;
    // SAFETY: numbers, of which zeros are the usual.
    let usual: libc::sched_attr = unsafe { std::mem::zeroed() };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_nice: nice,
        sched_runtime: TURN,
        ..usual
    };
    // SAFETY: of this thread (0); the attributes outlive the call, which reads as many bytes as their size says.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_behind_and_the_rest_stays_before() {
        let niceness = || getpriority_process(Some(gettid())).unwrap();
        let before = niceness();
        let mut background = Background::start("test", move || async move {
            (niceness(), tokio::task::spawn_blocking(niceness).await.unwrap())
        })
        .unwrap();
        let expected = before + NICENESS;
        assert_eq!(background.ended().await.unwrap(), (expected, expected));
        background.stop().await;
        assert_eq!(niceness(), before);
    }

    #[tokio::test]
    async fn it_ends_when_it_is_stopped_and_tells_a_panic() {
        let (begun, begins) = oneshot::channel();
        let endless = Background::<()>::start("test", || async {
            begun.send(()).unwrap();
            std::future::pending().await
        });
        begins.await.unwrap();
        endless.unwrap().stop().await;
        let mut broken = Background::<()>::start("test", || async { panic!("as it should") }).unwrap();
        assert!(broken.ended().await.is_err());
        broken.stop().await;
    }
}
