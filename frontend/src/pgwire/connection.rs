//! One client's connection: reads messages and answers each, until the client leaves.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::pgwire::cancel::{Cancel, Registered};
use crate::pgwire::portal::Portal;
use crate::pgwire::wire::{Incoming, Wire};
use crate::session::{Session, Status};

/// Notices that wait to be sent; more are dropped.
pub const NOTICES_MAX: usize = 256;

/// One client.
pub struct Connection {
    /// The socket.
    pub wire: Wire,
    /// What it is doing.
    pub session: Session,
    /// What it is told besides answers.
    pub notices: mpsc::Receiver<Error>,
    /// The wish of others that it stops.
    pub cancel: Arc<Cancel>,
    /// Bound statements by name.
    pub portals: HashMap<String, Portal>,
    /// An error happened in the extended protocol: everything up to Sync is skipped.
    pub skipping: bool,
    /// The client was told to go on and has said nothing since.
    pub is_ready: bool,
    /// Its entry among those that may be cancelled.
    pub registered: Registered,
}

impl Connection {
    /// Answers messages until the client leaves.
    pub async fn run(&mut self) -> Result<()> {
        self.ready_for_query().await?;
        loop {
            let patience = self.session.patience().filter(|_| self.is_ready);
            let tired = async {
                match patience {
                    Some((time, error)) => {
                        tokio::time::sleep(time).await;
                        error
                    }
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                error = self.cancel.left() => Err(error),
                next = self.wire.next() => next,
                error = tired => Err(error),
            };
            self.is_ready = false;
            let incoming = match next {
                Ok(incoming) => incoming,
                // Whoever speaks something else is not understood any more.
                Err(error) => {
                    self.fail(&error);
                    self.wire.flush().await?;
                    return Err(error);
                }
            };
            let message = match incoming {
                Incoming::Gone => return Ok(()),
                Incoming::Refused(kind, error) => {
                    self.fail(&error);
                    if kind == b'Q' {
                        self.session.end_statements(false).await.ok();
                        self.ready_for_query().await?;
                    } else {
                        self.skipping = true;
                        self.wire.flush().await?;
                    }
                    continue;
                }
                Incoming::Message(message) => message,
            };
            match message {
                PgWireFrontendMessage::Terminate(_) => return Ok(()),
                PgWireFrontendMessage::Query(query) => {
                    self.skipping = false;
                    self.simple_query(&query.query).await?;
                }
                PgWireFrontendMessage::Sync(_) => self.sync().await?,
                message if self.skipping => drop(message),
                message => {
                    if let Err(error) = contain(self.extended(message)).await {
                        let fatal = error.is_fatal();
                        self.fail(&error);
                        self.skipping = true;
                        // The client may wait for this before it says Sync.
                        self.wire.flush().await?;
                        if fatal {
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Reports an error and puts the transaction into its failed state.
    pub fn fail(&mut self, error: &Error) {
        self.send_notices();
        self.session.statement_failed();
        self.wire.put_error(error);
        if error.fields().sqlstate.starts_with("XX") {
            tracing::warn!(error = %error, sqlstate = error.fields().sqlstate, "internal error");
        } else {
            tracing::debug!(error = %error, sqlstate = error.fields().sqlstate, "statement failed");
        }
    }

    /// Puts what is to be told besides answers.
    pub fn send_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            self.wire.put_notice(&notice);
        }
        for (name, value) in self.session.take_reports() {
            use pgwire::messages::startup::ParameterStatus;
            self.wire.put(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)));
        }
    }

    /// The client may go on.
    pub async fn ready_for_query(&mut self) -> Result<()> {
        self.send_notices();
        let status = match self.session.status() {
            Status::Idle => TransactionStatus::Idle,
            Status::InBlock => TransactionStatus::Transaction,
            Status::Failed => TransactionStatus::Error,
        };
        self.wire.put(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(status)));
        self.is_ready = true;
        self.wire.flush().await
    }
}

/// A panic while a statement runs is a bug of ours: the statement fails with it, and nobody else notices.
pub async fn contain(work: impl Future<Output = Result<()>>) -> Result<()> {
    match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(panic = text, "a statement panicked");
            Err(Error::new("XX000", format!("internal error: {text}")))
        }
    }
}

/// Runs a part of a statement, sending notices meanwhile. A cancel request, the statement's deadline or the client's
/// end drop `work`, and so undo what it was about to do.
pub async fn attend<T>(
    wire: &mut Wire,
    notices: &mut mpsc::Receiver<Error>,
    cancel: &Cancel,
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let timeout = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(work);
    tokio::pin!(timeout);
    // Most statements are done at once, and need no company.
    let first = futures::poll!(&mut work);
    if let std::task::Poll::Ready(done) = first {
        return done;
    }
    loop {
        let notice = tokio::select! {
            biased;
            done = &mut work => return done,
            notice = notices.recv() => notice,
            error = cancel.wanted() => return Err(error),
            () = &mut timeout => return Err(Error::late()),
            () = wire.gone() => return Err(Error::fatal("08006", "connection to client lost")),
        };
        if let Some(notice) = notice {
            wire.put_notice(&notice);
            // Nobody but the client can be slow here, and the statement may wait for that.
            wire.flush().await?;
        }
    }
}
