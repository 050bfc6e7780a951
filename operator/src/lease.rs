//! Who writes.

use tokio::sync::watch;

/// Whether this process may write. A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    leading: watch::Sender<bool>,
}

impl Default for Leadership {
    fn default() -> Leadership {
        Leadership { leading: watch::Sender::new(false) }
    }
}

impl Leadership {
    pub fn is_leading(&self) -> bool {
        *self.leading.borrow()
    }

    /// Waits until this process leads.
    pub async fn acquired(&self) {
        self.wait_for(true).await;
    }

    /// Runs `work` as long as this process leads: waits for that first, drops `work` at its next await when it does not
    /// lead any more. `None`: that happened. Loop over it.
    pub async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.acquired().await;
        tokio::select! {
            // First, so that no write begins after the Lease is lost.
            biased;
            () = self.wait_for(false) => None,
            result = work => Some(result),
        }
    }

    pub(crate) fn set(&self, leading: bool) {
        self.leading.send_if_modified(|now| std::mem::replace(now, leading) != leading);
    }

    async fn wait_for(&self, leading: bool) {
        let mut changes = self.leading.subscribe();
        // The sender lives in `self`.
        changes.wait_for(|now| *now == leading).await.expect("the sender is there as long as its handle");
    }
}
