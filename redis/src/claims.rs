//! I/O: who of several processes tells that something happened. The first that claims an event has it, for good.

use std::time::Duration;

use crate::address::Address;
use crate::connection::{Connection, StoreError};
use crate::keys::{GatewayKeys, shard_of};

/// An answer has this long, with the connection.
const DEADLINE: Duration = Duration::from_millis(500);

/// The longest period of budgets, and some weeks.
const KEEP_SECONDS: u64 = 400 * 86_400;

/// Claims of one gateway.
pub struct Claims {
    keys: GatewayKeys,
    /// Who claims; the same after a restart.
    owner: String,
    connection: Option<(Address, Connection)>,
}

impl Claims {
    /// `gateway`: `namespace/name`.
    pub fn new(gateway: &str, owner: String) -> Claims {
        Claims { keys: GatewayKeys::new(gateway), owner, connection: None }
    }

    /// Whether an event is this process's to tell: it claimed it now, or before.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn claim(&mut self, address: &Address, event: &str) -> Result<bool, StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(self.keys.told(shard_of(event), event)).arg(&self.owner);
        command.arg("NX").arg("GET").arg("EX").arg(KEEP_SECONDS);
        let value = self.query(address, &command).await?;
        let before: Option<String> = redis::from_redis_value(value).map_err(|_| StoreError::Nonsense)?;
        Ok(before.is_none_or(|owner| owner == self.owner))
    }

    /// It may happen again, and is then to be claimed anew.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn release(&mut self, address: &Address, event: &str) -> Result<(), StoreError> {
        let mut command = redis::cmd("DEL");
        command.arg(self.keys.told(shard_of(event), event));
        self.query(address, &command).await.map(drop)
    }

    async fn query(&mut self, address: &Address, command: &redis::Cmd) -> Result<redis::Value, StoreError> {
        let asked = async {
            let mut connection = match self.connection.take().filter(|(known, _)| known == address) {
                Some((_, connection)) => connection,
                None => Connection::open(address).await?,
            };
            let value = connection.query(command).await?;
            // One that failed, or was too slow, is not used again.
            self.connection = Some((address.clone(), connection));
            Ok(value)
        };
        tokio::time::timeout(DEADLINE, asked).await.map_err(|_| StoreError::Late(DEADLINE))?
    }
}
