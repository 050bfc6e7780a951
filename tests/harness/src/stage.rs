//! The common case: one mock, one gateway in front of it, one key ([`crate::KEY`]) that may call everything.

use tollgate_mock::{Mock, Options, SeenRequest};

use crate::gateway::{Gateway, Starter};
use crate::ledger::{self, SpendRow};
use crate::objects::{self, Object, documents};

/// A mock and a gateway.
pub struct Stage {
    pub mock: Mock,
    pub gateway: Gateway,
    /// What the gateway was started with.
    pub objects: Vec<Object>,
}

impl Stage {
    /// The gateway, a Secret for providers, the key, and what `more` adds. An object of the same kind and name takes the
    /// place of ours.
    pub async fn start(more: impl FnOnce(&Mock) -> Vec<Object>) -> Stage {
        Stage::start_with(Starter::default(), Options::default(), more).await
    }

    /// The same, started otherwise.
    pub async fn start_with(starter: Starter, options: Options, more: impl FnOnce(&Mock) -> Vec<Object>) -> Stage {
        let mock = Mock::start(options).await.expect("the mock listens");
        let more = more(&mock);
        let usual = [objects::gateway(), objects::secret(), objects::caller()];
        let replaced = |object: &Object| more.iter().any(|other| other.id() == object.id());
        let usual: Vec<Object> = usual.into_iter().filter(|object| !replaced(object)).collect();
        let objects: Vec<Object> = usual.into_iter().chain(more).collect();
        let gateway = starter.file("config.yaml", documents(&objects)).start().await;
        Stage { mock, gateway, objects }
    }

    /// One OpenAI-compatible deployment, named `m`.
    pub async fn one() -> Stage {
        Stage::start(|mock| vec![objects::deployment("m", mock)]).await
    }

    /// Writes the objects anew, changed, and waits until that is served.
    pub async fn edit(&mut self, change: impl FnOnce(&mut Vec<Object>)) {
        change(&mut self.objects);
        self.gateway.edit_and_wait("config.yaml", &documents(&self.objects)).await;
    }

    /// The last request that the provider saw.
    ///
    /// # Panics
    /// It saw none.
    pub fn last_seen(&self) -> SeenRequest {
        self.mock.requests().pop().expect("the provider was asked")
    }

    /// Stops; the ledger must equal the invoice, and every attempt's usage must have been seen.
    pub async fn finish(mut self) -> Vec<SpendRow> {
        ledger::assert_ledger_equals_invoice(&mut self.gateway, &[&self.mock]).await
    }

    /// Stops; attempts whose usage was not seen must be in the ledger, flagged.
    pub async fn finish_flagged(mut self) -> Vec<SpendRow> {
        ledger::assert_every_attempt_is_booked(&mut self.gateway, &[&self.mock], false).await
    }
}
