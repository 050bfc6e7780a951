//! I/O: a connection to a server, or to all nodes of a cluster. Whether it is a cluster the server says itself.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Script, Value};

use crate::address::Address;

/// Until a connection must stand. With TLS and a name to look up.
const CONNECT: Duration = Duration::from_secs(2);

/// The connection's own patience. Callers have less; this ends what nobody waits for any more.
const RESPONSE: Duration = Duration::from_secs(5);

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Server(#[from] RedisError),
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the answer is not understood: another version wrote the script or the keys")]
    Nonsense,
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Connects to the first host that answers.
    ///
    /// # Errors
    /// None does.
    pub async fn open(address: &Address) -> Result<Connection, StoreError> {
        let mut failed = None;
        for url in address.urls() {
            match open_one(url).await {
                Ok(mut connection) => {
                    let info: String = redis::cmd("INFO").arg("cluster").query_async(&mut connection).await?;
                    if info.contains("cluster_enabled:1") {
                        return open_cluster(address).await;
                    }
                    return Ok(Connection::Server(connection));
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or(StoreError::Nonsense))
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, Connection::Cluster(_))
    }

    /// Runs a script, and gives it to the server where it does not know it.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub async fn run(&mut self, script: &Script, keys: &[String], arguments: &[String]) -> Result<Value, StoreError> {
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        for argument in arguments {
            call.arg(argument);
        }
        Ok(match self {
            Connection::Server(connection) => call.invoke_async(connection).await?,
            Connection::Cluster(connection) => call.invoke_async(connection).await?,
        })
    }

    /// # Errors
    /// The server is not reached, or refuses.
    pub async fn query(&mut self, command: &Cmd) -> Result<Value, StoreError> {
        Ok(match self {
            Connection::Server(connection) => connection.req_packed_command(command).await?,
            Connection::Cluster(connection) => connection.req_packed_command(command).await?,
        })
    }
}

async fn open_one(url: &str) -> Result<MultiplexedConnection, StoreError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(RESPONSE));
    let client = Client::open(url)?;
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn open_cluster(address: &Address) -> Result<Connection, StoreError> {
    let builder = ClusterClient::builder(address.urls().iter().map(String::as_str));
    // Who calls has a deadline and tries again: a node that is gone must not keep others waiting.
    let builder = builder.connection_timeout(CONNECT).response_timeout(RESPONSE).retries(1);
    Ok(Connection::Cluster(builder.build()?.get_async_connection().await?))
}
