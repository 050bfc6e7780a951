//! I/O: where the books of a gateway's budgets are, written down beside it: in ConfigMaps, or in the Redis of a Secret. An
//! operator that starts when `stores.redis` is gone has to know that what was spent is still there.

use serde::{Deserialize, Serialize};

use crate::Context;
use crate::facts::Named;
use crate::shards::{Series, ShardError, Shards};

/// One object, there from the first Redis on.
static BOOKS: Series = Series { what: "books", label: "tollgate.dev/books", entry: "books.json", count: 1 };

/// What is written down. Nothing: the books are in ConfigMaps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    /// `namespace/name/entry` of the Secret with the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<String>,
    /// Nothing is granted there any more; the books are being brought here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_left: bool,
    /// That a Redis is to be forgotten was said before this one was there, and of another time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_said_of_old: bool,
}

/// Where the books of one gateway are.
pub struct Place {
    shards: Shards,
    written: Written,
}

impl Place {
    /// `None`: the gateway is not known.
    ///
    /// # Errors
    /// The API server says no, or what is there is not understood: then nothing may be decided.
    pub async fn load(context: &Context, gateway: &Named) -> Result<Option<Place>, ShardError> {
        let Some(uid) = context.world.read().gateway_uid(&gateway.0, &gateway.1) else { return Ok(None) };
        let Context { client, metrics, .. } = context;
        let (shards, mut found) = Shards::load(client, &BOOKS, gateway, &uid, metrics.clone()).await?;
        let written = found.pop().map(|(_, written)| written).unwrap_or_default();
        Ok(Some(Place { shards, written }))
    }

    /// The Secret of the Redis that they are in: `namespace/name/entry`.
    pub fn redis(&self) -> Option<&str> {
        self.written.redis.as_deref()
    }

    /// They are on their way from there, and nothing is granted there.
    pub fn is_left(&self) -> bool {
        self.written.is_left
    }

    /// They are in this Redis. `says_forget`: the gateway has [`crate::names::ABANDON_ANNOTATION`] now.
    ///
    /// # Errors
    /// It is not written, or somebody else wrote meanwhile.
    pub async fn enter(&mut self, redis: &str, says_forget: bool) -> Result<(), ShardError> {
        let Written { redis: before, is_said_of_old, .. } = &self.written;
        let is_said_of_old = says_forget && (before.is_none() || *is_said_of_old);
        self.write(Written { redis: Some(redis.to_owned()), is_left: false, is_said_of_old }).await
    }

    /// Whether what is there is to be forgotten, as the annotation says. One that stayed from another time says nothing
    /// until it was taken away once.
    ///
    /// # Errors
    /// As [`Place::enter`].
    pub async fn is_to_forget(&mut self, says_forget: bool) -> Result<bool, ShardError> {
        if !says_forget {
            self.write(Written { is_said_of_old: false, ..self.written.clone() }).await?;
        }
        Ok(says_forget && !self.written.is_said_of_old)
    }

    /// They leave it.
    ///
    /// # Errors
    /// As [`Place::enter`].
    pub async fn leave(&mut self) -> Result<(), ShardError> {
        self.write(Written { is_left: true, ..self.written.clone() }).await
    }

    /// They are in ConfigMaps.
    ///
    /// # Errors
    /// As [`Place::enter`].
    pub async fn come_home(&mut self) -> Result<(), ShardError> {
        self.write(Written::default()).await
    }

    async fn write(&mut self, written: Written) -> Result<(), ShardError> {
        if self.written != written {
            let text = serde_json::to_string(&written).expect("names are JSON");
            self.shards.write(vec![(0, text)]).await?;
            self.written = written;
        }
        Ok(())
    }
}
