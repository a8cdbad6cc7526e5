//! A client's socket: messages in, messages out, with bounds on both.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use pgwire::tokio::tokio_rustls::server::TlsStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::pgwire::tls::Tls;
use crate::shared::{LARGE_MESSAGE_BYTES, ServerConfig, Shared};

/// A row that is ready leaves at once if so many bytes are waiting.
const OUTBOX_BYTES: usize = 32 << 10;
/// What a client may send ahead while its statement runs.
const INBOX_AHEAD_BYTES: usize = 64 << 10;

/// Before a client is let in, it gets room for so little, and its messages must be as small.
const STRANGER_READ_BYTES: usize = 512;
const STRANGER_MESSAGE_BYTES_MAX: usize = 10_000;
/// What is read at once of a client that is in.
const READ_BYTES: usize = 8 << 10;

/// A client's connection, encrypted or not.
enum Socket {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
    /// Between the two.
    Closed,
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Encrypted(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Encrypted(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Encrypted(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Encrypted(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Closed => Poll::Ready(Ok(())),
        }
    }
}

/// The socket with what is read and not understood yet, and what is said and not sent yet.
pub struct Wire {
    socket: Socket,
    /// What came and is not understood yet.
    pub inbox: BytesMut,
    outbox: BytesMut,
    read_bytes: usize,
    message_bytes_max: usize,
    /// How long a client may take over a message that it has begun, and leave what it is sent unread.
    patience: Duration,
    /// The memory for large messages of all clients together, and what this one holds of it.
    large: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
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
    /// The wire over a new socket, to somebody who is not let in yet.
    pub fn new(stream: TcpStream, shared: &Shared) -> Wire {
        Wire {
            socket: Socket::Plain(stream),
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            read_bytes: STRANGER_READ_BYTES,
            message_bytes_max: STRANGER_MESSAGE_BYTES_MAX.min(shared.config.message_bytes_max),
            patience: shared.config.write_timeout,
            large: shared.large_messages.clone(),
            held: None,
        }
    }

    /// The client is let in.
    pub fn welcome(&mut self, config: &ServerConfig) {
        (self.read_bytes, self.message_bytes_max) = (READ_BYTES, config.message_bytes_max);
    }

    /// Encrypts what is said from here on.
    pub async fn encrypt(&mut self, tls: &Tls) -> Result<()> {
        // Whoever speaks before it is answered may be somebody in between.
        if !self.inbox.is_empty() {
            return Err(Error::fatal("08P01", "received unencrypted data after SSL request"));
        }
        match std::mem::replace(&mut self.socket, Socket::Closed) {
            Socket::Plain(stream) => {
                self.socket = Socket::Encrypted(Box::new(tls.acceptor.accept(stream).await?));
                Ok(())
            }
            _ => Err(Error::fatal("08P01", "the connection is encrypted already")),
        }
    }

    /// Whether nobody else can read what is said.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.socket, Socket::Encrypted(_))
    }

    /// Reads until `n` bytes are there; false if the client is gone before.
    pub async fn fill(&mut self, n: usize) -> Result<bool> {
        while self.inbox.len() < n {
            // What a client announces costs nothing before it comes.
            let there = self.inbox.len();
            self.inbox.reserve((n - there).min(there).clamp(self.read_bytes, 1 << 20));
            if self.socket.read_buf(&mut self.inbox).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next message after the startup.
    pub async fn next(&mut self) -> Result<Incoming> {
        self.held = None;
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
        let patience = self.patience;
        let slow = |_| Error::fatal("08006", "the client does not end the message that it has begun");
        if !tokio::time::timeout(patience, self.whole(length)).await.map_err(slow)?? {
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

    /// Reads until a message of `length` bytes is there, for which there must be memory.
    async fn whole(&mut self, length: usize) -> Result<bool> {
        if length > LARGE_MESSAGE_BYTES && self.held.is_none() {
            let kib = u32::try_from(length >> 10).unwrap_or(u32::MAX);
            let stopping = |_| Error::terminated();
            self.held = Some(self.large.clone().acquire_many_owned(kib).await.map_err(stopping)?);
        }
        self.fill(length).await
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
        let (socket, outbox) = (&mut self.socket, &self.outbox);
        let write = async {
            socket.write_all(outbox).await?;
            socket.flush().await
        };
        tokio::time::timeout(self.patience, write).await.map_err(stuck)??;
        self.outbox.clear();
        if self.outbox.capacity() > 4 * OUTBOX_BYTES {
            self.outbox = BytesMut::new();
        }
        Ok(())
    }

    /// Reads ahead while a statement runs. Resolves only with the client's end; without that, never.
    pub async fn gone(&mut self) {
        loop {
            if self.inbox.len() >= INBOX_AHEAD_BYTES {
                return std::future::pending().await;
            }
            self.inbox.reserve(4 << 10);
            match self.socket.read_buf(&mut self.inbox).await {
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
pub fn decode(frame: &mut BytesMut, context: &DecodeContext) -> Result<Option<PgWireFrontendMessage>> {
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
    let decoded =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| PgWireFrontendMessage::decode(frame, context)));
    DECODING.set(false);
    match decoded {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(Error::fatal("08P01", error.to_string())),
        Err(_) => Err(Error::fatal("08P01", "invalid message format")),
    }
}
