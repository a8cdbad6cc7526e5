//! Asks the outside on a thread of its own, so that one that blocks never blocks a worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::answers::Answer;
use super::cache::Cache;
use super::{Asking, Lookup, TaskLookups};
use crate::error::{Error, Result};

/// Requests that may be under way.
pub const REQUESTS_MAX: usize = 2;
/// Keys of one request.
pub const KEYS_MAX: usize = 1024;
/// The first pause after an error, and the longest.
const RETRY_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How often a pause looks whether its end is still wanted.
const PAUSE_STEP: Duration = Duration::from_millis(50);

/// Keys to ask for.
pub struct Request {
    /// Their columns.
    pub keys: RecordBatch,
    /// The same as bytes, each different.
    pub encoded: Vec<Vec<u8>>,
}

/// A running thread; dropping it ends the thread.
pub struct Asker {
    requests: Sender<Request>,
    /// The answers of the requests, in their order: one per key.
    pub replies: Receiver<Vec<Arc<Answer>>>,
    shared: Arc<Shared>,
}

struct Shared {
    wanted: AtomicBool,
    healthy: AtomicBool,
    /// Nobody waits in a step: what comes asks for one.
    away: AtomicBool,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.shared.wanted.store(false, Ordering::Release);
    }
}

impl Asker {
    /// Starts the thread.
    pub fn start(table: Arc<dyn Lookup>, task: TaskLookups) -> Asker {
        let (requests, receive) = bounded::<Request>(REQUESTS_MAX);
        let (send, replies) = bounded(REQUESTS_MAX);
        let shared = Arc::new(Shared {
            wanted: AtomicBool::new(true),
            healthy: AtomicBool::new(true),
            away: AtomicBool::new(false),
        });
        let own = shared.clone();
        std::thread::Builder::new()
            .name("lookup".into())
            .spawn(move || {
                let mut thread =
                    Thread { cache: Cache::new(table.cache()), table, connection: None, task, shared: own };
                while let Ok(request) = receive.recv() {
                    let Some(answers) = thread.answer(&request) else { return };
                    // Room for every request that is under way.
                    if send.send(answers).is_err() {
                        return;
                    }
                    thread.tell();
                }
            })
            .expect("the system has a thread to spare");
        Asker { requests, replies, shared }
    }

    /// Asks; at most [`REQUESTS_MAX`] requests may be under way.
    pub fn ask(&self, request: Request) -> Result<()> {
        self.requests.try_send(request).map_err(|_| Error::Failed("the thread of a lookup has ended".into()))
    }

    /// Whether the outside answered the last time.
    pub fn is_healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Acquire)
    }

    /// Whether answers are waited for without a step. If one has come already, a step is asked for at once.
    pub fn away(&self, away: bool, task: &TaskLookups) {
        self.shared.away.store(away, Ordering::SeqCst);
        if away && !self.replies.is_empty() {
            task.ready();
        }
    }
}

struct Thread {
    table: Arc<dyn Lookup>,
    connection: Option<Box<dyn Asking>>,
    cache: Cache,
    task: TaskLookups,
    shared: Arc<Shared>,
}

impl Thread {
    /// The answers, however long it takes; `None` once nobody wants them any more.
    fn answer(&mut self, request: &Request) -> Option<Vec<Arc<Answer>>> {
        let now = Instant::now();
        let mut known: HashMap<usize, Arc<Answer>> = HashMap::new();
        for (i, key) in request.encoded.iter().enumerate() {
            known.extend(self.cache.get(key, now).map(|answer| (i, answer)));
        }
        let unknown: Vec<u32> =
            (0..request.encoded.len() as u32).filter(|i| !known.contains_key(&(*i as usize))).collect();
        if !unknown.is_empty() {
            let answers = self.ask(request, &unknown)?;
            let asked = Instant::now();
            for (i, answer) in unknown.iter().zip(answers) {
                let answer = Arc::new(answer);
                self.cache.put(&request.encoded[*i as usize], answer.clone(), asked);
                known.insert(*i as usize, answer);
            }
        }
        (0..request.encoded.len()).map(|i| known.remove(&i)).collect()
    }

    fn ask(&mut self, request: &Request, wanted: &[u32]) -> Option<Vec<Answer>> {
        let mut pause = RETRY_PAUSE[0];
        loop {
            match self.try_ask(request, wanted) {
                Ok(answers) => {
                    self.task.report(None);
                    self.shared.healthy.store(true, Ordering::Release);
                    return Some(answers);
                }
                Err(error) => {
                    self.connection = None;
                    self.task.report(Some(error.to_string()));
                    // A step that waits goes on without.
                    if self.shared.healthy.swap(false, Ordering::AcqRel) {
                        (self.task.wake)();
                    }
                }
            }
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if !self.shared.wanted.load(Ordering::Acquire) {
                    return None;
                }
                std::thread::sleep(PAUSE_STEP);
            }
            pause = (pause * 2).min(RETRY_PAUSE[1]);
        }
    }

    fn try_ask(&mut self, request: &Request, wanted: &[u32]) -> Result<Vec<Answer>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.table.connect()?),
        };
        let keys = take_record_batch(&request.keys, &UInt32Array::from(wanted.to_vec()))?;
        let answers = connection.ask(&keys)?;
        if answers.len() != wanted.len() {
            return Err(Error::Failed("an answer for each key was expected".into()));
        }
        Ok(answers)
    }

    fn tell(&self) {
        if self.shared.away.load(Ordering::SeqCst) { self.task.ready() } else { (self.task.wake)() }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.task.report(None);
    }
}
