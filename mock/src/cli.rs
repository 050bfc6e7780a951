//! `tollgate mock`: the mock alone, in the foreground. Prints its URL and serves until ctrl-c. I/O.

use std::io;
use std::net::SocketAddr;

use crate::server::{Mock, Options};

/// Serves on `addr` until ctrl-c; prints its URL and how to call it.
///
/// # Errors
/// The address cannot be listened on.
pub async fn run_cli(addr: SocketAddr) -> io::Result<()> {
    Mock::run(Options { addr, ..Options::default() }, announce, async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "ctrl-c cannot be caught: {error}");
            std::future::pending::<()>().await;
        }
    })
    .await
}

fn announce(addr: SocketAddr) {
    println!("mock provider on http://{addr}");
    println!("  OpenAI     POST http://{addr}/v1/chat/completions, /v1/completions, /v1/embeddings, GET /v1/models");
    println!("  Azure      POST http://{addr}/openai/deployments/NAME/chat/completions?api-version=2024-10-21");
    println!("  Anthropic  POST http://{addr}/v1/messages, /v1/messages/count_tokens");
    println!("  control    GET http://{addr}/_mock/invoice, /_mock/requests; POST http://{addr}/_mock/script");
    println!("try: curl http://{addr}/v1/chat/completions -H 'content-type: application/json' \\");
    println!("       -d '{{\"model\":\"mock-gpt\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'");
}
