//! The server `headwater`: the only crate that listens on a port.
//!
//! A client's statement comes in by [`pgwire`], is parsed and bound by the planner, and is run by its file in
//! [`statements`] in the name of a [`session`]. What exists is in the [`catalog`], and clients see it as
//! [`pg_catalog`]. How an error is told is in [`error`]. The [`server`] holds it all together and can run inside
//! another program, as tests do:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let server = frontend::Server::start(frontend::ServerConfig::new("data").on_free_ports()).await?;
//! println!("psql -h 127.0.0.1 -p {} -d dev -U root", server.address().port());
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```

pub mod activity;
pub mod catalog;
pub mod commands;
pub mod copy_format;
pub mod error;
pub mod fields;
pub mod http;
pub mod outcome;
pub mod pg_catalog;
pub mod pgwire;
pub mod roles;
pub mod server;
pub mod session;
pub mod settings;
pub mod shared;
pub mod statements;

pub use server::Server;
pub use shared::{Authenticate, ServerConfig};
