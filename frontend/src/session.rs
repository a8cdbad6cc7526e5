//! One client's session: its settings, its transaction, its prepared statements, cursors and notices.

pub mod cursor;
pub mod prepared;
mod savepoint;
pub mod transaction;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use planner::catalog::{Object, ObjectKind};
use storage::{Batch, Epoch, RelationId, RelationSnapshot};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::activity::{Activity, Entry, now_us};
use crate::error::{Error, Result};
use crate::pg_catalog::names::SCHEMAS;
use crate::settings::{Setting, Values};
use crate::shared::Shared;
use cursor::Cursor;
use prepared::Prepared;
use transaction::{Transaction, Work};

/// A transaction that holds tables waits so long for another one before it counts as a deadlock.
const DEADLOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// A block waits so long for relations that it may read later.
const EVERYTHING_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(20);

/// One client's session.
pub struct Session {
    /// What all sessions share.
    pub shared: Arc<Shared>,
    /// The id that the client was told.
    pub pid: i32,
    /// The user who logged in.
    pub user: String,
    /// The settings.
    pub settings: Values,
    /// Prepared statements by name, of the protocol and of PREPARE.
    pub prepared: HashMap<String, Arc<Prepared>>,
    /// Cursors by name.
    pub cursors: HashMap<String, Cursor>,
    /// Where the client is.
    pub peer: Option<SocketAddr>,
    transaction: Transaction,
    notices: mpsc::Sender<Error>,
    reports: Vec<(String, String)>,
    last_write: Epoch,
    /// As of which epoch it last read a relation: it never reads it as it was before that.
    seen: BTreeMap<RelationId, Epoch>,
    _entry: Entry,
    _place: OwnedSemaphorePermit,
}

/// What a client is told of the transaction when it may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No BEGIN.
    Idle,
    /// After BEGIN.
    InBlock,
    /// After an error after BEGIN.
    Failed,
}

impl Session {
    /// A session of a client that has just connected.
    pub fn new(
        shared: Arc<Shared>,
        pid: i32,
        peer: Option<SocketAddr>,
        notices: mpsc::Sender<Error>,
        place: OwnedSemaphorePermit,
    ) -> Session {
        let activity = Activity {
            pid,
            user: String::new(),
            application_name: String::new(),
            peer,
            connected: now_us(),
            transaction: None,
            statement: None,
            state: "idle",
            query: String::new(),
        };
        let entry = Entry::new(shared.activities.clone(), activity);
        let mut settings = Values::default();
        settings.fix("port", shared.config.listen.port().to_string());
        Session {
            shared,
            pid,
            user: String::new(),
            settings,
            prepared: HashMap::new(),
            cursors: HashMap::new(),
            peer,
            transaction: Transaction::None,
            notices,
            reports: Vec::new(),
            last_write: Epoch(0),
            seen: BTreeMap::new(),
            _entry: entry,
            _place: place,
        }
    }

    /// Tells the client something that is no error, if it wants to hear it.
    pub fn notice(&self, notice: Error) {
        let quiet = matches!(self.settings.get("client_min_messages"), Ok("warning" | "error" | "fatal"));
        if !(quiet && notice.fields().severity == crate::error::Severity::Notice) {
            let _ = self.notices.try_send(notice);
        }
    }

    /// A handle to tell notices from elsewhere.
    pub fn notices(&self) -> mpsc::Sender<Error> {
        self.notices.clone()
    }

    /// Settings that changed since the last call and that the client is to be told of.
    pub fn take_reports(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.reports)
    }

    /// Notes that a setting changed.
    pub fn report(&mut self, setting: &Setting, value: &str) {
        if setting.reported {
            self.reports.push((setting.name.to_owned(), value.to_owned()));
        }
        if setting.name == "application_name" {
            self.shared.activities.update(self.pid, |a| a.application_name = value.to_owned());
        }
    }

    /// The client is known: shown in `pg_stat_activity`.
    pub fn connected(&mut self) {
        let (user, name) = (self.user.clone(), self.settings.get("application_name").unwrap_or("").to_owned());
        self.shared.activities.update(self.pid, |a| (a.user, a.application_name) = (user, name));
    }

    /// How the planner sees the session.
    pub fn bind_settings(&self) -> planner::Settings {
        let path = self.settings.get("search_path").unwrap_or("public");
        let mut values = self.settings.all();
        values.insert("backend_pid".into(), self.pid.to_string());
        planner::Settings {
            timezone: self.settings.get("TimeZone").unwrap_or("UTC").to_owned(),
            search_path: search_path(path, &self.user),
            now: self.now(),
            processing_time: self.processing_time(),
            user: self.user.clone(),
            database: crate::pg_catalog::names::DATABASE.to_owned(),
            values,
        }
    }

    /// The time zone that timestamptz values are shown in.
    pub fn zone(&self) -> planner::types::datetime::Zone {
        use planner::types::datetime::{UTC, Zone};
        let name = self.settings.get("TimeZone").unwrap_or("UTC");
        // A fixed offset is kept as Postgres shows it: `<+02>-02`.
        let name = name.strip_prefix('<').and_then(|n| n.split_once('>')).map_or(name, |(offset, _)| offset);
        Zone::parse(name).unwrap_or(UTC)
    }

    /// What the text of a value depends on.
    pub fn text_session(&self) -> planner::types::text::Session {
        planner::types::text::Session { zone: self.zone(), now: Some(self.now()) }
    }

    /// How long the client may say nothing, and what it is told then.
    pub fn patience(&self) -> Option<(std::time::Duration, Error)> {
        let in_block = || {
            let time = self.settings.time("idle_in_transaction_session_timeout").filter(|_| self.is_in_block())?;
            Some((time, Error::fatal("25P03", "terminating connection due to idle-in-transaction timeout")))
        };
        let idle = || {
            let time = self.settings.time("idle_session_timeout").filter(|_| !self.is_in_block())?;
            Some((time, Error::fatal("57P05", "terminating connection due to idle-session timeout")))
        };
        in_block().or_else(idle)
    }

    /// When the statement must be over.
    pub fn deadline(&self) -> Option<Instant> {
        Some(Instant::now() + self.settings.time("statement_timeout")?)
    }

    /// The transaction's time.
    pub fn now(&self) -> i64 {
        match &self.transaction {
            Transaction::Implicit(work) | Transaction::Block(work) => work.now,
            Transaction::None | Transaction::Failed(_) => now_us(),
        }
    }

    /// What PROCTIME() is in a write: the time of the transaction's first write to a table that has it.
    pub fn processing_time(&self) -> i64 {
        let stamp = match &self.transaction {
            Transaction::Implicit(work) | Transaction::Block(work) => work.stamp.as_ref(),
            Transaction::None | Transaction::Failed(_) => None,
        };
        stamp.map_or_else(|| self.now(), |stamp| stamp.at)
    }

    /// Before rows are written to a table: whether that has made [`Session::processing_time`] another one.
    pub fn stamp(&mut self, table: &Object) -> Result<bool> {
        if table.generated.is_empty() {
            return Ok(false);
        }
        let engine = self.shared.engine()?;
        let work = self.open_work();
        let is_new = work.stamp.is_none();
        work.stamp.get_or_insert_with(|| engine.stamp());
        Ok(is_new)
    }

    // Transactions

    /// What ReadyForQuery says.
    pub fn status(&self) -> Status {
        match self.transaction {
            Transaction::None | Transaction::Implicit(_) => Status::Idle,
            Transaction::Block(_) => Status::InBlock,
            Transaction::Failed(_) => Status::Failed,
        }
    }

    /// Whether BEGIN was said.
    pub fn is_in_block(&self) -> bool {
        matches!(self.transaction, Transaction::Block(_) | Transaction::Failed(_))
    }

    /// Whether an error happened since BEGIN.
    pub fn is_failed(&self) -> bool {
        matches!(self.transaction, Transaction::Failed(_))
    }

    /// A statement begins: without BEGIN it is its own transaction.
    pub fn statement_begins(&mut self, text: &str) {
        if matches!(self.transaction, Transaction::None) {
            self.transaction = Transaction::Implicit(Box::new(self.work()));
        }
        let now = now_us();
        let (transaction, text) = (self.now(), shortened(text));
        self.shared.activities.update(self.pid, |a| {
            (a.transaction, a.statement, a.state, a.query) = (Some(transaction), Some(now), "active", text);
        });
    }

    /// The client has to say something.
    pub fn idle(&mut self) {
        let state = match self.transaction {
            Transaction::None | Transaction::Implicit(_) => "idle",
            Transaction::Block(_) => "idle in transaction",
            Transaction::Failed(_) => "idle in transaction (aborted)",
        };
        let in_block = self.is_in_block();
        self.shared.activities.update(self.pid, |a| {
            a.state = state;
            if !in_block {
                a.transaction = None;
            }
        });
    }

    fn work(&self) -> Work {
        Work {
            now: now_us(),
            writes: BTreeMap::new(),
            bytes: 0,
            key_counts: BTreeMap::new(),
            locks: Vec::new(),
            locked: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            reads: false,
            before: self.settings.clone(),
            local: BTreeSet::new(),
            read_only: self.settings.is_on("default_transaction_read_only"),
            savepoints: Vec::new(),
            counted: Vec::new(),
            stamp: None,
        }
    }

    /// An error happened: what the transaction wanted to write is forgotten.
    pub fn statement_failed(&mut self) {
        self.transaction = match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::None | Transaction::Implicit(_) => Transaction::None,
            Transaction::Block(mut work) => {
                if work.savepoints.is_empty() {
                    // Nobody can go back to it: others need not wait for its tables.
                    work.writes.clear();
                    work.stamp = None;
                    work.locks.clear();
                    work.locked.clear();
                }
                Transaction::Failed(work)
            }
            Transaction::Failed(work) => Transaction::Failed(work),
        };
        if matches!(self.transaction, Transaction::None) {
            self.cursors.retain(|_, c| c.is_holdable());
        }
    }

    /// The statements of one message are over: without BEGIN, what they wrote is made durable.
    pub async fn end_statements(&mut self, ok: bool) -> Result<()> {
        if !matches!(self.transaction, Transaction::Implicit(_)) {
            return Ok(());
        }
        let Transaction::Implicit(work) = std::mem::replace(&mut self.transaction, Transaction::None) else {
            unreachable!("just looked")
        };
        if ok { self.make_durable(*work).await } else { Ok(()) }
    }

    /// BEGIN. What statements of the same message wrote before belongs to the transaction, as in Postgres.
    pub fn begin(&mut self, read_only: Option<bool>) -> Result<()> {
        let mut work = match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::Implicit(work) => work,
            Transaction::None => Box::new(self.work()),
            block => {
                self.transaction = block;
                self.notice(Error::warning("25001", "there is already a transaction in progress"));
                return Ok(());
            }
        };
        if let Some(read_only) = read_only {
            work.read_only = read_only;
        }
        self.transaction = Transaction::Block(work);
        Ok(())
    }

    /// COMMIT: true if the changes are durable now, false if the transaction had failed.
    pub async fn commit(&mut self) -> Result<bool> {
        self.cursors.retain(|_, c| c.is_holdable());
        match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::Block(work) => {
                for name in work.local.clone() {
                    let value = work.before.get(name)?.to_owned();
                    self.restore(name, &value);
                }
                self.make_durable(*work).await?;
                Ok(true)
            }
            Transaction::Failed(work) => {
                self.restore_all(work.before);
                Ok(false)
            }
            implicit => {
                self.transaction = implicit;
                self.notice(Error::warning("25P01", "there is no transaction in progress"));
                Ok(true)
            }
        }
    }

    /// ROLLBACK
    pub fn rollback(&mut self) {
        self.cursors.retain(|_, c| c.is_holdable());
        match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::Block(work) | Transaction::Failed(work) => self.restore_all(work.before),
            implicit => {
                self.transaction = implicit;
                self.notice(Error::warning("25P01", "there is no transaction in progress"));
            }
        }
    }

    fn restore(&mut self, name: &'static str, value: &str) {
        if let Ok(Some((setting, value))) = self.settings.set(name, value) {
            self.report(setting, &value);
        }
    }

    fn restore_all(&mut self, before: Values) {
        let now = std::mem::replace(&mut self.settings, before);
        for setting in crate::settings::SETTINGS.iter() {
            let value = self.settings.of(setting).to_owned();
            if now.of(setting) != value {
                self.report(setting, &value);
            }
        }
    }

    /// A setting changes until the end of the transaction. False if there is none.
    pub fn set_local(&mut self, setting: &'static Setting) -> bool {
        match &mut self.transaction {
            Transaction::Block(work) => work.local.insert(setting.name),
            _ => return false,
        };
        true
    }

    /// Makes the transaction's writes so far durable: before a statement that is a transaction of its own.
    pub async fn before_ddl(&mut self, what: &str) -> Result<()> {
        let has_writes = match &self.transaction {
            Transaction::Block(work) if !work.writes.is_empty() => {
                let message = format!("{what} cannot follow a write in the same transaction");
                return Err(Error::new("25001", message).hint("COMMIT first."));
            }
            Transaction::Implicit(work) => !work.writes.is_empty(),
            _ => false,
        };
        if self.is_in_block() {
            let message = format!("{what} takes effect at once and is not undone by ROLLBACK");
            self.notice(Error::warning("25001", message));
        }
        if has_writes {
            self.end_statements(true).await?;
            self.transaction = Transaction::Implicit(Box::new(self.work()));
        }
        Ok(())
    }

    async fn make_durable(&mut self, work: Work) -> Result<()> {
        if work.writes.is_empty() {
            return Ok(());
        }
        let mut changes = Vec::with_capacity(work.writes.len());
        for (relation, batches) in work.writes {
            let schema = batches[0].schema();
            let one = if batches.len() == 1 && batches[0].is_append_only() {
                batches.into_iter().next().expect("one")
            } else {
                Batch::concat(&schema, &batches)?.consolidate()?
            };
            if one.num_rows() > 0 {
                changes.push((relation, one));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let (shared, locks, stamp) = (self.shared.clone(), work.locks, work.stamp);
        let engine = shared.engine()?;
        // On a task of its own: once begun, it is finished even if the client goes away or cancels.
        let write = tokio::spawn(async move {
            let epoch = engine.write(changes).await?;
            shared.wrote(epoch);
            drop((locks, stamp));
            Ok::<_, Error>(epoch)
        });
        let epoch = write.await.map_err(|e| Error::new("XX000", e.to_string()))??;
        self.last_write = self.last_write.max(epoch);
        Ok(())
    }

    fn open_work(&mut self) -> &mut Work {
        if matches!(self.transaction, Transaction::None) {
            self.transaction = Transaction::Implicit(Box::new(self.work()));
        }
        match &mut self.transaction {
            Transaction::Implicit(work) | Transaction::Block(work) => work,
            Transaction::None | Transaction::Failed(_) => unreachable!("no statement runs in a failed transaction"),
        }
    }

    /// Whether the transaction may write.
    pub fn check_may_write(&mut self, command: &str) -> Result<()> {
        if self.open_work().read_only || self.settings.is_on("transaction_read_only") {
            return Err(Error::new("25006", format!("cannot execute {command} in a read-only transaction")));
        }
        Ok(())
    }

    /// SET TRANSACTION READ ONLY and READ WRITE.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.open_work().read_only = read_only;
    }

    // Reading and writing

    /// The session knows of something as of `epoch`: what it reads is never older.
    pub fn saw(&mut self, epoch: Epoch) {
        self.last_write = self.last_write.max(epoch);
    }

    /// The epoch that what it reads is never older than.
    pub fn last_seen(&self) -> Epoch {
        self.last_write
    }

    /// The right to write to tables until the end of the transaction.
    pub async fn lock(&mut self, tables: &[RelationId]) -> Result<()> {
        let engine = self.shared.engine()?;
        let timeout = self.settings.time("lock_timeout");
        let work = self.open_work();
        let mut missing: Vec<RelationId> = tables.iter().copied().filter(|t| !work.locked.contains(t)).collect();
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let lock = engine.lock_tables(&missing);
        let locks = if let Some(timeout) = timeout {
            let late = |_| Error::new("55P03", "canceling statement due to lock timeout");
            tokio::time::timeout(timeout, lock).await.map_err(late)?
        } else if !work.locks.is_empty() {
            let late = |_| {
                Error::new("40P01", "deadlock detected")
                    .detail("The transaction waits for a table while it holds another one.")
                    .hint("Write to tables in the same order in all transactions, or run the transaction again.")
            };
            tokio::time::timeout(DEADLOCK_TIMEOUT, lock).await.map_err(late)?
        } else {
            lock.await
        };
        work.locks.push(locks);
        work.locked.extend(missing);
        Ok(())
    }

    /// Adds changes of a table to the transaction; its lock is held.
    pub fn write(&mut self, table: RelationId, batch: Batch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let max = self.shared.config.transaction_bytes_max;
        let work = self.open_work();
        work.bytes += batch.data().get_array_memory_size();
        if work.bytes > max {
            return Err(Error::too_much_written(max));
        }
        work.writes.entry(table).or_default().push(batch);
        Ok(())
    }

    /// The transaction adds `diff` rows with a key to a table.
    pub fn count_key(&mut self, table: RelationId, key: &[u8], diff: i64) {
        let work = self.open_work();
        let counts = work.key_counts.entry(table).or_default();
        match counts.get_mut(key) {
            Some(count) => *count += diff,
            None => drop(counts.insert(key.to_vec(), diff)),
        }
        if !work.savepoints.is_empty() {
            work.counted.push((table, key.to_vec(), diff));
        }
    }

    /// How many rows with a key the transaction adds to a table.
    pub fn key_count(&mut self, table: RelationId, key: &[u8]) -> i64 {
        self.open_work().key_counts.get(&table).and_then(|counts| counts.get(key)).copied().unwrap_or(0)
    }

    /// The transaction's own changes of a relation that nobody else sees yet.
    pub fn pending(&self, relation: RelationId) -> &[Batch] {
        match &self.transaction {
            Transaction::Implicit(work) | Transaction::Block(work) => {
                work.writes.get(&relation).map_or(&[], Vec::as_slice)
            }
            _ => &[],
        }
    }

    /// Snapshots of stored relations, all as of one epoch. In a block all statements read the same epoch, except for
    /// the tables that it holds the lock of: there it must see what it changes.
    pub async fn snapshots(
        &mut self,
        relations: &[RelationId],
        to_change: bool,
    ) -> Result<BTreeMap<RelationId, RelationSnapshot>> {
        if relations.is_empty() {
            return Ok(BTreeMap::new());
        }
        let engine = self.shared.engine()?;
        let catalog = self.shared.catalogs.current();
        let is_table = |r: RelationId| catalog.by_id(r).is_some_and(|o| o.kind == ObjectKind::Table);
        let tables_only = relations.iter().all(|&r| match catalog.by_id(r) {
            Some(index) if index.kind == ObjectKind::Index => index.depends_on.iter().all(|&on| is_table(on)),
            _ => is_table(r),
        });
        // What this client wrote is there, and what anybody wrote to a table too, since that costs no waiting for
        // a view that is behind.
        let at_least = if tables_only || to_change { self.shared.last_write() } else { self.last_write };
        // Several relations are read as of an epoch that all of them were exact at, which may be an older one.
        let seen = relations.iter().filter_map(|relation| self.seen.get(relation).copied());
        let at_least = seen.fold(at_least, Epoch::max);
        let block = match &mut self.transaction {
            Transaction::Block(work) if !to_change => Some(work),
            _ => None,
        };
        let Some(work) = block else {
            let view = engine.read(relations, at_least).await?;
            self.seen.extend(relations.iter().map(|relation| (*relation, view.epoch)));
            if let Transaction::Block(work) = &mut self.transaction {
                // From now on the block reads what it builds on.
                work.snapshots.extend(view.relations.iter().map(|(id, s)| (*id, s.clone())));
            }
            return Ok(view.relations);
        };
        let known = |work: &Work| relations.iter().all(|r| work.snapshots.contains_key(r));
        if !known(work) {
            // The first read of a block takes hold of everything that exists, so that later statements can read
            // other relations at the same epoch.
            let everything = !work.reads;
            work.reads = true;
            let mut wanted: BTreeSet<RelationId> = relations.iter().copied().collect();
            if everything {
                let status = engine.status();
                let running = status.jobs.iter().filter(|j| j.state == streaming::engine::JobState::Running);
                let stored = running.filter(|j| catalog.by_id(j.relation).is_some_and(crate::catalog::is_stored));
                wanted.extend(stored.map(|j| j.relation));
            }
            let wanted: Vec<RelationId> = wanted.into_iter().collect();
            // But nobody waits for a view that is behind, or fails with one, without reading it.
            let everything = tokio::time::timeout(EVERYTHING_TIMEOUT, engine.read(&wanted, at_least)).await;
            let view = match everything {
                Ok(Ok(view)) => view,
                _ => engine.read(relations, at_least).await?,
            };
            self.seen.extend(relations.iter().map(|relation| (*relation, view.epoch)));
            for (id, snapshot) in view.relations {
                work.snapshots.entry(id).or_insert(snapshot);
            }
        }
        Ok(relations.iter().filter_map(|r| Some((*r, work.snapshots.get(r)?.clone()))).collect())
    }
}

/// The start of a long text, for `pg_stat_activity`.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 1024;
    text.char_indices().nth(CHARS_MAX).map_or(text, |(end, _)| &text[..end]).to_owned()
}

/// Splits `"$user", public` into the names of schemas that exist.
fn search_path(text: &str, user: &str) -> Vec<String> {
    text.split(',')
        .map(|name| name.trim())
        .map(|name| match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => name.to_lowercase(),
        })
        .map(|name| if name == "$user" { user.to_owned() } else { name })
        .filter(|name| SCHEMAS.iter().any(|(schema, _)| schema == name))
        .collect()
}
