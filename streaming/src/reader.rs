//! Reads a split on a thread of its own, so that an outside system that blocks never blocks a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};

use crate::error::Error;
use crate::source::{Offset, Read, Records, Source};

/// Batches that a reader may be ahead of its worker.
const BATCHES_AHEAD_MAX: usize = 4;
/// Records asked for at once.
const ROWS_PER_READ: usize = 8192;
/// How long a reader waits for records before it looks whether it is still wanted.
const READ_TIMEOUT: Duration = Duration::from_millis(100);
/// The first pause after an error, and the longest.
const RETRY_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// What a reader thread has to say.
pub enum Message {
    /// Records.
    Records(Records),
    /// The position moved without a record.
    Position(Offset),
    /// The split is read to its end.
    End(Offset),
    /// The outside system does not answer; the reader goes on trying.
    Unavailable(String),
    /// The split cannot be read on: the job fails.
    Failed(String),
}

/// A running reader. Dropping it ends the thread.
pub struct Reader {
    /// What it has read.
    pub messages: Receiver<Message>,
    wanted: Arc<AtomicBool>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

/// Starts a thread that reads `split` from `from` on; `wake` is called after each message.
pub fn start(
    source: Arc<dyn Source>,
    split: String,
    number: u16,
    from: Offset,
    projection: Arc<Vec<usize>>,
    wake: Box<dyn Fn() + Send>,
) -> Reader {
    let (send, messages) = bounded(BATCHES_AHEAD_MAX);
    let wanted = Arc::new(AtomicBool::new(true));
    let reader = Reader { messages, wanted: wanted.clone() };
    let name = format!("read {split}");
    std::thread::Builder::new()
        .name(name.chars().take(15).collect())
        .spawn(move || {
            let out = Out { send, wake, wanted };
            read(&*source, &split, number, from, &projection, &out);
        })
        .expect("the system has a thread to spare");
    reader
}

fn read(source: &dyn Source, split: &str, number: u16, from: Offset, projection: &[usize], out: &Out) {
    let mut position = from;
    let mut pause = RETRY_PAUSE[0];
    let mut failed = false;
    loop {
        let error = match source.open(split, number, position, projection) {
            Ok(mut reader) => loop {
                match reader.read(ROWS_PER_READ, READ_TIMEOUT) {
                    Ok(Read::Records(records)) => {
                        position = records.next;
                        (pause, failed) = (RETRY_PAUSE[0], false);
                        if !out.deliver(Message::Records(records)) {
                            return;
                        }
                    }
                    Ok(Read::Idle { next }) => {
                        // After an error it tells that it is over.
                        let moved = next != position || failed;
                        position = next;
                        (pause, failed) = (RETRY_PAUSE[0], false);
                        if moved && !out.deliver(Message::Position(next)) {
                            return;
                        }
                        if !out.wanted.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    Ok(Read::End { next }) => {
                        out.deliver(Message::End(next));
                        return;
                    }
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        let message = match error {
            Error::Unavailable(message) => Message::Unavailable(message),
            error => {
                out.deliver(Message::Failed(error.to_string()));
                return;
            }
        };
        failed = true;
        if !out.deliver(message) {
            return;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(RETRY_PAUSE[1]);
    }
}

/// The way to the worker.
struct Out {
    send: Sender<Message>,
    wake: Box<dyn Fn() + Send>,
    wanted: Arc<AtomicBool>,
}

impl Out {
    /// Hands over a message; false when nobody wants it any more.
    fn deliver(&self, mut message: Message) -> bool {
        loop {
            match self.send.send_timeout(message, Duration::from_secs(1)) {
                Ok(()) => {
                    (self.wake)();
                    return self.wanted.load(Ordering::Relaxed);
                }
                Err(SendTimeoutError::Timeout(back)) => message = back,
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
    }
}
