//! `tollgate mock`, and the mock provider inside `tollgate serve`.

use std::net::{IpAddr, SocketAddr};

use tollgate_snapshot::model::Endpoint;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,

    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 4010, value_name = "PORT")]
    port: u16,
}

/// Serves until ctrl-c.
///
/// # Errors
/// The address is not to be had.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(tollgate_mock::run_cli(SocketAddr::new(arguments.host, arguments.port)))?)
}

/// How the gateway reaches a mock provider.
pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { tls: false, host: address.ip().to_string().into(), port: address.port(), path: "/v1".into() }
}

/// Stands for a mock provider where none is started.
pub fn placeholder() -> Endpoint {
    endpoint(SocketAddr::from(([127, 0, 0, 1], 4010)))
}
