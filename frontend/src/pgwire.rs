//! The Postgres wire protocol: one [`connection`] per client, from its first byte to its last.
//!
//! The crate `pgwire` knows the messages; the conversation is ours, because a statement's rows must leave as they
//! come, a cancel request must reach it while it waits, and a client that goes away must stop what it asked for.

pub mod authentication;
pub mod cancel;
pub mod connection;
pub mod copy;
pub mod extended;
pub mod password;
pub mod portal;
pub mod report;
pub mod simple;
pub mod startup;
pub mod tls;
pub mod types;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::Error;
use crate::shared::Shared;

/// A connection that is silent for so long is asked whether it is still there, and then so often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Talks to one client until it leaves.
pub async fn serve(shared: Arc<Shared>, stream: TcpStream, knocking: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    // A machine that vanished is noticed, and its place comes free.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let peer = stream.peer_addr().ok();
    match startup::accept(shared, stream, knocking).await {
        Ok(Some(mut connection)) => {
            if let Err(error) = connection.run().await {
                tracing::debug!(?peer, %error, "connection ended");
            }
        }
        Ok(None) => (),
        Err(error) => tracing::debug!(?peer, %error, "connection refused"),
    }
}

/// Sends somebody away who would be one too many at the door, without waiting for anything.
pub fn turn_away(stream: &TcpStream) {
    let mut message = bytes::BytesMut::new();
    let error = Error::fatal("53300", "sorry, too many clients are connecting at the same time");
    if report::error_message(&error).encode(&mut message).is_ok() {
        // Whoever cannot even take this hears nothing.
        let _ = stream.try_write(&message);
    }
}
