//! I/O: the way to the Redis of a gateway, as its tables say or said: which server, and what its budgets promise there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
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
    #[error("the Secret with the URL of Redis: {0}")]
    Secret(#[from] Box<kube::Error>),
}

/// Of one gateway.
pub struct Link {
    pub context: Context,
    pub gateway: Named,
    pub terms: AllTerms,
    /// The Secret of a server that tables do not name any more: `namespace/name/entry`.
    former: Option<String>,
    snapshot: Option<Arc<Snapshot>>,
    store: Option<(Address, Store)>,
}

impl Link {
    pub fn new(context: Context, gateway: Named) -> Link {
        Link { context, gateway, terms: AllTerms::default(), former: None, snapshot: None, store: None }
    }

    /// To the server that the gateway had. `secret`: `namespace/name/entry`.
    pub fn former(context: Context, gateway: Named, secret: &str) -> Link {
        Link { former: Some(secret.to_owned()), ..Link::new(context, gateway) }
    }

    /// Takes over what is compiled. Whether budgets or the server are others than before; `None`: nothing is compiled.
    pub async fn follow(&mut self) -> Result<Option<bool>, LinkError> {
        let Some(snapshot) = self.context.fleet.snapshot_of(&self.gateway) else { return Ok(None) };
        let address = match (&self.former, &self.store) {
            (None, _) => address_of(&self.context, &snapshot)?,
            // No table follows its Secret: it is read again when the server is not reached.
            (Some(_), Some((address, _))) => address.clone(),
            (Some(secret), None) => read_address(&self.context, secret).await?,
        };
        let mut is_new = false;
        let now = jiff::Timestamp::now().as_second();
        if !self.snapshot.as_ref().is_some_and(|known| Arc::ptr_eq(known, &snapshot)) {
            self.terms = AllTerms::of(&snapshot, now);
            self.snapshot = Some(snapshot);
            is_new = true;
        }
        self.terms.end_boosts(now);
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
    let (namespace, name, key) = parts_of(id).ok_or(LinkError::NoUrl)?;
    let secrets = context.secrets.compiled();
    let url = secrets.get(namespace, name).and_then(|secret| secret.data.get(key)).ok_or(LinkError::NoUrl)?;
    Ok(Address::parse(url)?)
}

/// The same, of a Secret that nobody follows.
async fn read_address(context: &Context, id: &str) -> Result<Address, LinkError> {
    let (namespace, name, key) = parts_of(id).ok_or(LinkError::NoUrl)?;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let secret = api.get_opt(name).await.map_err(Box::new)?.ok_or(LinkError::NoUrl)?;
    let url = secret.data.unwrap_or_default().remove(key).ok_or(LinkError::NoUrl)?;
    Ok(Address::parse(&String::from_utf8(url.0).map_err(|_| LinkError::NoUrl)?)?)
}

/// Namespace, name and entry.
pub fn parts_of(id: &str) -> Option<(&str, &str, &str)> {
    let mut parts = id.splitn(3, '/');
    Some((parts.next()?, parts.next()?, parts.next()?))
}
