//! Who keeps the books of one gateway's budgets: the operator at its [`Desk`], or a Redis with a [`Reader`] and a
//! [`Bridge`] to it. Before anybody is answered it is known where the books are, and they are brought where they should be.

use tokio::sync::mpsc;

use super::bridge::{Bridge, Crossed};
use super::desk::{Ask, Desk};
use super::leave::{LeaveError, failed, leave};
use super::link::Link;
use super::place::Place;
use super::spend::Reader;
use crate::Context;
use crate::backoff::Backoff;
use crate::facts::Named;
use crate::shards::ShardError;

/// Serves until all who could ask are gone. `in_redis`: the gateway has one now.
pub async fn keep(context: Context, gateway: Named, in_redis: bool, mut asks: mpsc::Receiver<Ask>) {
    let mut backoff = Backoff::of_server();
    loop {
        match bring(&context, &gateway, in_redis, &mut asks).await {
            Ok(Some(place)) if in_redis => {
                let link = || Link::new(context.clone(), gateway.clone());
                let mut bridge = Bridge::new(link(), Crossed::default());
                tokio::select! {
                    error = Reader::new(link(), Some(place)).run() => not_known(&context, &gateway, &error),
                    () = bridge.run(&mut asks) => return,
                }
            }
            Ok(Some(_)) => return Desk::new(context, gateway).run(asks).await,
            Ok(None) => {}
            Err(LeaveError::Books(error)) => not_known(&context, &gateway, &error),
            Err(error) => failed(&context, &gateway, &error, !in_redis),
        }
        backoff.wait().await;
    }
}

fn not_known(context: &Context, (namespace, name): &Named, error: &ShardError) {
    tracing::warn!(%error, "where the books of `{namespace}/{name}` are cannot be read or written: {error}");
    context.metrics.allocation_failed();
}

/// Brings the books from a Redis that they should not be in any more. `None`: the gateway is not known, or nobody asks.
async fn bring(
    context: &Context,
    gateway: &Named,
    in_redis: bool,
    asks: &mut mpsc::Receiver<Ask>,
) -> Result<Option<Place>, LeaveError> {
    let Some(mut place) = Place::load(context, gateway).await? else { return Ok(None) };
    let is_here = leave(context, gateway, &mut place, in_redis, asks).await?;
    Ok(Some(place).filter(|_| is_here))
}
