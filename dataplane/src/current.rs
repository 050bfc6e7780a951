//! The tables that calls begin with, and what becomes of those before: whoever swaps frees them, no thread that serves.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache, Guard};
use tokio::sync::watch;

use crate::tables::Tables;

/// How often it is looked whether tables are still in use: at first, and when calls go on and on.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The tables that are current now.
#[derive(Debug)]
pub struct Current {
    tables: Arc<ArcSwap<Tables>>,
    swapped: watch::Sender<()>,
}

/// The same, as one thread reads them for each call.
pub type Reader = Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>;

impl Current {
    pub fn new(tables: Tables) -> Current {
        Current { tables: Arc::new(ArcSwap::from_pointee(tables)), swapped: watch::Sender::new(()) }
    }

    pub fn load(&self) -> Guard<Arc<Tables>> {
        self.tables.load()
    }

    pub fn load_full(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// Whoever keeps one reads it anew at each [`Current::swapped`]: it holds what it read last.
    pub fn reader(&self) -> Reader {
        Cache::new(self.tables.clone())
    }

    /// Changes at each swap.
    pub fn swapped(&self) -> watch::Receiver<()> {
        self.swapped.subscribe()
    }

    /// From here on calls begin with these.
    pub fn swap(&self, tables: Tables) -> Replaced {
        let old = self.tables.swap(Arc::new(tables));
        self.swapped.send_replace(());
        Replaced(old)
    }
}

/// Tables that were current. Calls that began with them use them to their end.
#[must_use = "who drops it at once leaves it to a call to free the tables"]
#[derive(Debug)]
pub struct Replaced(Arc<Tables>);

impl Replaced {
    /// Until nobody else uses them, so that the drop frees them. May be cancelled.
    pub async fn unused(&self) {
        let mut pause = FIRST_LOOK;
        while Arc::strong_count(&self.0) > 1 {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_LOOK);
        }
    }
}
