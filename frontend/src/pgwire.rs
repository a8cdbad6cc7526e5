//! The Postgres wire protocol: one [`Connection`] per client, from its first byte to its last.
//!
//! The crate `pgwire` knows the messages; the conversation is ours, because a statement's rows must leave as they
//! come, a cancel request must reach it while it waits, and a client that goes away must stop what it asked for.

pub mod cancel;
pub mod copy;
pub mod extended;
pub mod report;
pub mod simple;
pub mod startup;
pub mod types;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::pgwire::cancel::{Cancel, Registered};
use crate::server::{ServerConfig, Shared};
use crate::session::{Session, Status};

/// A row that is ready leaves at once if so many bytes are waiting.
const OUTBOX_BYTES: usize = 32 << 10;
/// What a client may send ahead while its statement runs.
const INBOX_AHEAD_BYTES: usize = 64 << 10;
/// A connection that is silent for so long is asked whether it is still there, and then so often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Notices that wait to be sent; more are dropped.
pub const NOTICES_MAX: usize = 256;

/// The socket with what is read and not understood yet, and what is said and not sent yet.
pub struct Wire {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    inbox: BytesMut,
    outbox: BytesMut,
    message_bytes_max: usize,
    write_timeout: Duration,
}

/// What came in.
pub enum Incoming {
    /// A message.
    Message(PgWireFrontendMessage),
    /// A message of this kind that cannot be taken, and why; it was skipped.
    Refused(u8, Error),
    /// The client is gone.
    Gone,
}

impl Wire {
    fn new(stream: TcpStream, config: &ServerConfig) -> Wire {
        let (reader, writer) = stream.into_split();
        Wire {
            reader,
            writer,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            message_bytes_max: config.message_bytes_max,
            write_timeout: config.write_timeout,
        }
    }

    /// Reads until `n` bytes are there; false if the client is gone before.
    async fn fill(&mut self, n: usize) -> Result<bool> {
        while self.inbox.len() < n {
            self.inbox.reserve((n - self.inbox.len()).clamp(8 << 10, 1 << 20));
            if self.reader.read_buf(&mut self.inbox).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next message after the startup.
    pub async fn next(&mut self) -> Result<Incoming> {
        if !self.fill(5).await? {
            return Ok(Incoming::Gone);
        }
        let kind = self.inbox[0];
        let length = i32::from_be_bytes(self.inbox[1..5].try_into().expect("four bytes"));
        if length < 4 {
            return Err(Error::fatal("08P01", "invalid message length"));
        }
        let length = length as usize + 1;
        if length > self.message_bytes_max {
            // Read past it without keeping it, so that the connection can go on.
            let mut left = length;
            while left > 0 {
                if self.inbox.is_empty() && !self.fill(1).await? {
                    return Ok(Incoming::Gone);
                }
                let n = left.min(self.inbox.len());
                self.inbox.advance(n);
                left -= n;
            }
            let error = Error::new("54000", format!("message of {length} bytes is too large"))
                .detail(format!("A message may have at most {} bytes.", self.message_bytes_max))
                .hint("Send the data in smaller parts, or raise --message-bytes-max.");
            return Ok(Incoming::Refused(kind, error));
        }
        if !self.fill(length).await? {
            return Ok(Incoming::Gone);
        }
        // Decoding sees this one message only: a wrong length inside cannot reach into the next.
        let mut frame = self.inbox.split_to(length);
        // Of a Parse the name and the text, behind which are the types.
        let texts = if kind == b'P' { 2 } else { usize::MAX };
        if matches!(kind, b'Q' | b'P')
            && frame[5..].split(|byte| *byte == 0).take(texts).any(|text| std::str::from_utf8(text).is_err())
        {
            let error = Error::new("22021", "invalid byte sequence for encoding \"UTF8\"");
            return Ok(Incoming::Refused(kind, error));
        }
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = false;
        match decode(&mut frame, &context)? {
            Some(message) => Ok(Incoming::Message(message)),
            None => Err(Error::fatal("08P01", "invalid message format")),
        }
    }

    /// Says something, some time before or at the next [`Wire::flush`].
    pub fn put(&mut self, message: PgWireBackendMessage) {
        if let Err(error) = message.encode(&mut self.outbox) {
            tracing::warn!(%error, "a message could not be encoded");
        }
    }

    /// Where rows are encoded to directly.
    pub fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    /// Sends what is said if it is much.
    pub async fn relieve(&mut self) -> Result<()> {
        if self.outbox.len() >= OUTBOX_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends everything that is said.
    pub async fn flush(&mut self) -> Result<()> {
        // A client that reads nothing for so long keeps what others could use.
        let stuck = |_| Error::fatal("08006", "the client does not read what it asked for");
        tokio::time::timeout(self.write_timeout, self.writer.write_all(&self.outbox)).await.map_err(stuck)??;
        self.outbox.clear();
        if self.outbox.capacity() > 4 * OUTBOX_BYTES {
            self.outbox = BytesMut::new();
        }
        Ok(())
    }

    /// Reads ahead while a statement runs. Resolves only with the client's end; without that, never.
    async fn gone(&mut self) {
        loop {
            if self.inbox.len() >= INBOX_AHEAD_BYTES {
                return std::future::pending().await;
            }
            self.inbox.reserve(4 << 10);
            match self.reader.read_buf(&mut self.inbox).await {
                Ok(n) if n > 0 => (),
                _ => return,
            }
        }
    }
}

thread_local! {
    /// Whether this thread decodes what a client sent.
    static DECODING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Decodes one message. The crate panics at lengths inside that are too long: that is the client's fault, not ours, and
/// no line of the log, which strangers could fill then.
fn decode(frame: &mut BytesMut, context: &DecodeContext) -> Result<Option<PgWireFrontendMessage>> {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !DECODING.get() {
                tell(panic);
            }
        }));
    });
    DECODING.set(true);
    let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| PgWireFrontendMessage::decode(frame, context)));
    DECODING.set(false);
    match decoded {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(Error::fatal("08P01", error.to_string())),
        Err(_) => Err(Error::fatal("08P01", "invalid message format")),
    }
}

/// One client.
pub struct Connection {
    wire: Wire,
    session: Session,
    notices: mpsc::Receiver<Error>,
    cancel: Arc<Cancel>,
    portals: std::collections::HashMap<String, extended::Portal>,
    /// An error happened in the extended protocol: everything up to Sync is skipped.
    skipping: bool,
    /// The client was told to go on and has said nothing since.
    is_ready: bool,
    _registered: Registered,
}

/// Talks to one client until it leaves.
pub async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // A machine that vanished is noticed, and its place comes free.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let peer = stream.peer_addr().ok();
    match startup::accept(shared, stream).await {
        Ok(Some(mut connection)) => {
            if let Err(error) = connection.run().await {
                tracing::debug!(?peer, %error, "connection ended");
            }
        }
        Ok(None) => (),
        Err(error) => tracing::debug!(?peer, %error, "connection refused"),
    }
}

impl Connection {
    async fn run(&mut self) -> Result<()> {
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
    fn fail(&mut self, error: &Error) {
        self.send_notices();
        self.session.statement_failed();
        self.wire.put_error(error);
        if error.fields().sqlstate.starts_with("XX") {
            tracing::warn!(error = %error, sqlstate = error.fields().sqlstate, "internal error");
        } else {
            tracing::debug!(error = %error, sqlstate = error.fields().sqlstate, "statement failed");
        }
    }

    fn send_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            self.wire.put_notice(&notice);
        }
        for (name, value) in self.session.take_reports() {
            use pgwire::messages::startup::ParameterStatus;
            self.wire.put(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)));
        }
    }

    async fn ready_for_query(&mut self) -> Result<()> {
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
async fn contain(work: impl Future<Output = Result<()>>) -> Result<()> {
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
async fn attend<T>(
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
