//! I/O: the way to the Redis of a gateway, as its tables say: which server, and what its budgets promise there.

use std::sync::Arc;

use tollgate_allocator::Terms;
use tollgate_redis::{Address, AddressError, GatewayKeys, Store, StoreError};
use tollgate_snapshot::Snapshot;

use super::terms::AllTerms;
use crate::Context;
use crate::facts::Named;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the Secret with the URL of Redis is not there, or has no such entry")]
    NoUrl,
    #[error("the URL of Redis: {0}")]
    Address(#[from] AddressError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Of one gateway.
pub struct Link {
    pub context: Context,
    pub gateway: Named,
    pub terms: AllTerms,
    snapshot: Option<Arc<Snapshot>>,
    store: Option<(Address, Store)>,
}

impl Link {
    pub fn new(context: Context, gateway: Named) -> Link {
        Link { context, gateway, terms: AllTerms::default(), snapshot: None, store: None }
    }

    /// Takes over what is compiled. Whether budgets or the server are others than before; `None`: nothing is compiled.
    pub async fn follow(&mut self) -> Result<Option<bool>, LinkError> {
        let Some(snapshot) = self.context.fleet.snapshot_of(&self.gateway) else { return Ok(None) };
        let address = address_of(&self.context, &snapshot)?;
        let mut is_new = false;
        if !self.snapshot.as_ref().is_some_and(|known| Arc::ptr_eq(known, &snapshot)) {
            self.terms = AllTerms::of(&snapshot);
            self.snapshot = Some(snapshot);
            is_new = true;
        }
        if self.store.as_ref().is_none_or(|(known, _)| *known != address) {
            let (namespace, name) = &self.gateway;
            let store = Store::open(&address, GatewayKeys::new(&format!("{namespace}/{name}"))).await?;
            self.store = Some((address, store));
            is_new = true;
        }
        Ok(Some(is_new))
    }

    /// What was taken over last.
    pub fn get(&self) -> Option<(&Store, &Snapshot)> {
        Some((&self.store.as_ref()?.1, self.snapshot.as_deref()?))
    }

    /// The connection is of no use any more.
    pub fn forget_store(&mut self) {
        self.store = None;
    }

    /// As an exchange asks for them.
    pub fn terms_of(&self) -> impl Fn(&str) -> Option<Terms> + Sync + '_ {
        |id| self.terms.get(id).map(|terms| Terms::clone(terms))
    }
}

/// Where the server of a gateway is, out of the Secret that it names.
fn address_of(context: &Context, snapshot: &Snapshot) -> Result<Address, LinkError> {
    let id = snapshot.gateway.redis.as_deref().ok_or(LinkError::NoUrl)?;
    let mut parts = id.splitn(3, '/');
    let (Some(namespace), Some(name), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(LinkError::NoUrl);
    };
    let secrets = context.secrets.compiled();
    let url = secrets.get(namespace, name).and_then(|secret| secret.data.get(key)).ok_or(LinkError::NoUrl)?;
    Ok(Address::parse(url)?)
}
