//! Joins each row of its input with what a table outside has for its key when the row is processed.
//!
//! Rule    A row is asked for once. What was answered stays with it: a later retraction takes back exactly what came out.
//! State   `waiting`: (row) -> how often it waits for its answer; `answers`: (row) -> answers, each with how often it was
//!         given, unless rows are never retracted.
//! Epochs  A step waits for answers while they come; rows without one wait in the state, and their answers ask for a step
//!         of their own. What a step was told is in the synced log before it comes out.
//! Limits  PATIENCE bounds how long a step waits for one answer, and it waits not at all while the outside does not answer.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow_schema::{DataType, Schema, SchemaRef};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable, row};

use crate::error::{Error, Result};
use crate::expr::{self, Evaluator, Expr};
use crate::lookup::answers::{self, Answer};
use crate::lookup::asker::{Asker, KEYS_MAX, REQUESTS_MAX, Request};
use crate::lookup::{LookupSpec, TaskLookups};
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, RowError, Seal, StateSize, Task, TaskContext,
};
use crate::operators::hash_join::task::batch;

/// How long a step waits for the next answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Joins rows with a table outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LookupJoin {
    /// Whether a row without a match comes out too, padded with NULLs.
    pub outer: bool,
    /// Key columns of the input.
    pub keys: Vec<usize>,
    /// The table outside.
    pub table: LookupSpec,
    /// The table's columns that are equal to the keys.
    pub table_keys: Vec<usize>,
    /// The table's columns that come out.
    pub wanted: Vec<usize>,
    /// Further condition over the input's columns followed by the wanted ones.
    pub condition: Option<Expr>,
    /// Rows of the input are never retracted.
    pub append_only: bool,
    /// The output columns: the input's followed by the wanted ones.
    pub schema: SchemaRef,
}

impl Operator for LookupJoin {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Hash(self.keys.clone())]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Ok(Box::new(LookupJoinTask::open(self, ctx)?))
    }
    fn describe(&self) -> String {
        let names = |columns: &[usize]| -> Vec<String> {
            columns.iter().map(|c| self.table.columns[*c].name.clone()).collect()
        };
        let kind = if self.outer { "left" } else { "inner" };
        format!("{kind} with {} by ({})", self.table.name, names(&self.table_keys).join(", "))
    }
    fn state(&self) -> Option<String> {
        Some(match self.append_only {
            true => "the rows that wait for an answer".into(),
            false => "the rows that wait for an answer, and each row's answer".into(),
        })
    }
}

/// Answers and how often each was given.
type Given = Vec<(Arc<Answer>, i64)>;

/// A row that waits for its answer.
struct Waiting {
    vnode: u8,
    count: i64,
}

/// A row that was answered.
struct Kept {
    vnode: u8,
    /// The last one was given last.
    answers: Given,
}

/// A change that comes out: a row with its answer.
struct Decision {
    row: Vec<u8>,
    vnode: u8,
    answer: Arc<Answer>,
    diff: i64,
    /// The log need not have it.
    known: bool,
}

/// How far a step is.
enum Phase {
    /// Nothing was done yet.
    Open,
    /// Until then it waits for the next answer.
    Asking(Instant),
    /// What was decided is on its way to the log.
    Writing(Arc<Mutex<Option<storage::Result<()>>>>),
    /// It comes out.
    Emitting,
}

struct LookupJoinTask {
    node: LookupJoin,
    lookups: TaskLookups,
    asker: Asker,
    types: Vec<DataType>,
    /// The input's columns.
    input: SchemaRef,
    wanted: Vec<DataType>,
    condition: Option<Evaluator>,
    /// What the open epoch changes.
    changes: BTreeMap<Vec<u8>, (u8, i64)>,
    waiting: HashMap<Vec<u8>, Waiting>,
    /// Rows of `waiting` that were not asked for yet.
    unasked: VecDeque<Vec<u8>>,
    /// By request under way: the rows of each key.
    asked: VecDeque<Vec<Vec<Vec<u8>>>>,
    kept: HashMap<Vec<u8>, Kept>,
    /// What was answered before a restart and is not in the state: the last one was given last.
    owed: HashMap<Vec<u8>, Given>,
    /// Answers of the state that were others before a restart: row, which, what instead, how often.
    replaced: Vec<(Vec<u8>, Arc<Answer>, Arc<Answer>, i64)>,
    phase: Phase,
    decided: Vec<Decision>,
    /// How much of what is decided came out.
    emitted: usize,
    changed: HashSet<Vec<u8>>,
    waiting_changed: HashSet<Vec<u8>>,
    waiting_table: StateTable,
    answers_table: StateTable,
    bytes: usize,
}

fn broken() -> Error {
    Error::Storage(storage::Error::Corrupt("an answer of a lookup in the store is broken".into()))
}

impl LookupJoinTask {
    fn open(node: &LookupJoin, ctx: &mut TaskContext) -> Result<LookupJoinTask> {
        let (waiting_table, answers_table) = (ctx.table("waiting")?, ctx.table("answers")?);
        let missing = || Error::Unsupported("a lookup join is run by a job of its own".into());
        let lookups = ctx.lookups.clone().ok_or_else(missing)?;
        let table = lookups.table().ok_or_else(missing)?;
        let input = ctx.inputs[0].clone();
        let types: Vec<DataType> = input.fields().iter().map(|f| f.data_type().clone()).collect();
        let wanted: Vec<DataType> =
            node.schema.fields()[types.len()..].iter().map(|f| f.data_type().clone()).collect();
        let condition = node.condition.as_ref().map(|c| expr::compile(c, &node.schema, ctx.functions)).transpose()?;
        let mut task = LookupJoinTask {
            asker: Asker::start(table, lookups.clone()),
            node: node.clone(),
            lookups,
            types,
            input,
            wanted,
            condition,
            changes: BTreeMap::new(),
            waiting: HashMap::new(),
            unasked: VecDeque::new(),
            asked: VecDeque::new(),
            kept: HashMap::new(),
            owed: HashMap::new(),
            replaced: Vec::new(),
            phase: Phase::Open,
            decided: Vec::new(),
            emitted: 0,
            changed: HashSet::new(),
            waiting_changed: HashSet::new(),
            waiting_table,
            answers_table,
            bytes: 0,
        };
        task.load()?;
        task.asker.away(true, &task.lookups);
        Ok(task)
    }

    fn load(&mut self) -> Result<()> {
        let mut valid = true;
        self.waiting_table.scan(&mut |vnode, row, count| {
            match count.try_into().map(i64::from_le_bytes) {
                Ok(count) => {
                    self.waiting.insert(row.to_vec(), Waiting { vnode, count });
                    self.unasked.push_back(row.to_vec());
                }
                Err(_) => valid = false,
            }
            Ok(())
        })?;
        self.answers_table.scan(&mut |vnode, row, mut value| {
            let mut kept = Kept { vnode, answers: Vec::new() };
            while let Some((count, rest)) = value.split_first_chunk::<8>() {
                value = rest;
                match answers::take(&mut value).and_then(Answer::decode) {
                    Some(answer) => kept.answers.push((Arc::new(answer), i64::from_le_bytes(*count))),
                    None => valid = false,
                }
            }
            self.bytes += row.len() + kept.answers.iter().map(|(answer, _)| answer.bytes()).sum::<usize>();
            self.kept.insert(row.to_vec(), kept);
            Ok(())
        })?;
        let vnodes = self.waiting_table.vnodes();
        let lookups = self.lookups.clone();
        let mut gone: HashMap<Vec<u8>, Given> = HashMap::new();
        lookups.replay(&mut |record| match answers::decode_record(lookups.node, record) {
            Some(entries) => {
                for entry in entries.into_iter().filter(|entry| vnodes.contains(&usize::from(entry.vnode))) {
                    let owed = self.owed.entry(entry.row.clone()).or_default();
                    if entry.diff > 0 {
                        owed.push((Arc::new(entry.answer), entry.diff));
                        continue;
                    }
                    let taken: i64 = take_last(owed, -entry.diff).iter().map(|(_, n)| n).sum();
                    if taken < -entry.diff {
                        gone.entry(entry.row).or_default().push((Arc::new(entry.answer), -entry.diff - taken));
                    }
                }
            }
            None => valid = false,
        })?;
        // A row that went and came again may do neither when both are replayed at once.
        for (row, gone) in gone {
            for (before, count) in gone {
                let after = self.owed.get_mut(&row).map(|owed| take_last(owed, count)).unwrap_or_default();
                self.replaced.extend(after.into_iter().map(|(after, n)| (row.clone(), before.clone(), after, n)));
            }
        }
        self.owed.retain(|_, answers| !answers.is_empty());
        self.lookups.owes(!self.owed.is_empty() || !self.replaced.is_empty());
        self.lookups.waits(self.waiting.len() as u64);
        if valid { Ok(()) } else { Err(broken()) }
    }

    fn keep(&mut self, row: &[u8], vnode: u8, answer: &Arc<Answer>, count: i64) {
        if self.node.append_only {
            return;
        }
        let kept = self.kept.entry(row.to_vec()).or_insert_with(|| Kept { vnode, answers: Vec::new() });
        match kept.answers.last_mut() {
            Some((last, n)) if *last == *answer => *n += count,
            _ => {
                self.bytes += row.len() + answer.bytes();
                kept.answers.push((answer.clone(), count));
            }
        }
        self.changed.insert(row.to_vec());
    }

    fn decide(&mut self, row: Vec<u8>, vnode: u8, answer: Arc<Answer>, diff: i64, known: bool) {
        self.decided.push(Decision { row, vnode, answer, diff, known });
    }

    /// Gives rows of the state the answers that they had before a restart.
    fn replace(&mut self) {
        for (row, before, after, count) in std::mem::take(&mut self.replaced) {
            let Some(kept) = self.kept.get_mut(&row) else { continue };
            let Some((_, there)) = kept.answers.iter_mut().find(|(answer, n)| *answer == before && *n >= count) else {
                continue;
            };
            *there -= count;
            kept.answers.retain(|(_, n)| *n > 0);
            let vnode = kept.vnode;
            self.decide(row.clone(), vnode, before, -count, true);
            self.keep(&row, vnode, &after, count);
            self.decide(row, vnode, after, count, true);
        }
    }

    /// What the epoch changed: rows go with their answers, and those that come begin to wait.
    fn begin(&mut self, recovering: bool) -> Result<()> {
        self.replace();
        let mut changes = std::mem::take(&mut self.changes);
        changes.retain(|_, (_, diff)| *diff != 0);
        let rows: Vec<&[u8]> = changes.keys().map(Vec::as_slice).collect();
        let without_key = self.without_key(&rows)?;
        for ((row, (vnode, diff)), without_key) in changes.into_iter().zip(without_key) {
            if without_key {
                // NULL is equal to nothing: nobody needs to be asked.
                self.decide(row, vnode, Arc::default(), diff, true);
            } else if diff > 0 {
                self.arrive(row, vnode, diff);
            } else {
                self.leave(row, vnode, -diff, recovering)?;
            }
        }
        // What the state had waiting may have been answered before a restart.
        if !self.owed.is_empty() {
            let known: Vec<Vec<u8>> = self.waiting.keys().filter(|row| self.owed.contains_key(*row)).cloned().collect();
            for row in known {
                let Some(Waiting { vnode, count }) = self.waiting.remove(&row) else { continue };
                self.waiting_changed.insert(row.clone());
                self.arrive(row, vnode, count);
            }
        }
        Ok(())
    }

    fn arrive(&mut self, row: Vec<u8>, vnode: u8, count: i64) {
        let mut left = count;
        if let Some(owed) = self.owed.get_mut(&row) {
            let taken = take_last(owed, left);
            for (answer, n) in taken {
                left -= n;
                self.keep(&row, vnode, &answer, n);
                self.decide(row.clone(), vnode, answer, n, true);
            }
        }
        if left > 0 {
            self.waiting_changed.insert(row.clone());
            match self.waiting.get_mut(&row) {
                Some(waiting) => waiting.count += left,
                None => {
                    self.unasked.push_back(row.clone());
                    self.waiting.insert(row, Waiting { vnode, count: left });
                }
            }
        }
    }

    fn leave(&mut self, row: Vec<u8>, vnode: u8, count: i64, recovering: bool) -> Result<()> {
        let mut left = count;
        if let Some(waiting) = self.waiting.get_mut(&row) {
            let n = left.min(waiting.count);
            (left, waiting.count) = (left - n, waiting.count - n);
            if waiting.count == 0 {
                self.waiting.remove(&row);
            }
            self.waiting_changed.insert(row.clone());
        }
        let Some(kept) = self.kept.get_mut(&row).filter(|_| left > 0) else {
            let message = "a row of a lookup join goes that was not there";
            return if left == 0 { Ok(()) } else { Err(Error::Failed(message.into())) };
        };
        let taken = take_last(&mut kept.answers, left);
        if kept.answers.is_empty() {
            self.kept.remove(&row);
        }
        for (answer, n) in taken {
            left -= n;
            self.bytes = self.bytes.saturating_sub(row.len() + answer.bytes());
            if recovering {
                // Should it come again, that is what it had.
                self.owed.entry(row.clone()).or_default().push((answer.clone(), n));
            }
            self.decide(row.clone(), vnode, answer, -n, false);
        }
        self.changed.insert(row);
        if left == 0 { Ok(()) } else { Err(Error::Failed("a row of a lookup join goes more often than it was there".into())) }
    }

    fn key_columns(&self, rows: &[&[u8]]) -> Result<Vec<ArrayRef>> {
        let columns = row::decode(&self.types, rows.iter().copied())?;
        Ok(self.node.keys.iter().map(|k| columns[*k].clone()).collect())
    }

    /// Which rows have NULL in their key.
    fn without_key(&self, rows: &[&[u8]]) -> Result<Vec<bool>> {
        let columns = self.key_columns(rows)?;
        Ok((0..rows.len()).map(|i| columns.iter().any(|column| column.is_null(i))).collect())
    }

    /// Sends requests as long as there is something to ask for and room for it.
    fn ask(&mut self) -> Result<()> {
        while self.asked.len() < REQUESTS_MAX {
            let mut rows: Vec<Vec<u8>> = Vec::new();
            while rows.len() < KEYS_MAX
                && let Some(row) = self.unasked.pop_front()
            {
                // It may have gone, and it may have come again and be in the queue twice.
                if self.waiting.contains_key(&row) {
                    rows.push(row);
                }
            }
            if rows.is_empty() {
                return Ok(());
            }
            let slices: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
            let columns = self.key_columns(&slices)?;
            let encoded = row::encode_rows(&columns, rows.len())?;
            let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
            let (mut firsts, mut by_key): (Vec<u32>, Vec<Vec<Vec<u8>>>) = (Vec::new(), Vec::new());
            for (i, row) in rows.into_iter().enumerate() {
                let place = *places.entry(encoded.get(i).to_vec()).or_insert(by_key.len());
                if place == by_key.len() {
                    firsts.push(i as u32);
                    by_key.push(Vec::new());
                }
                by_key[place].push(row);
            }
            let firsts = UInt32Array::from(firsts);
            let fields: Vec<_> = self.node.keys.iter().map(|k| self.input.field(*k).clone()).collect();
            let columns = columns.iter().map(|c| arrow::compute::take(c, &firsts, None)).collect::<Result<_, _>>()?;
            let keys = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
            let encoded = firsts.values().iter().map(|i| encoded.get(*i as usize).to_vec()).collect();
            self.asker.ask(Request { keys, encoded })?;
            self.asked.push_back(by_key);
        }
        Ok(())
    }

    /// Takes the answers that have come; false if there were none.
    fn take_replies(&mut self) -> Result<bool> {
        let mut some = false;
        while let Ok(reply) = self.asker.replies.try_recv() {
            some = true;
            let rows = self.asked.pop_front().ok_or_else(|| Error::Failed("an answer that nobody asked for".into()))?;
            for (rows, answer) in rows.into_iter().zip(reply) {
                for row in rows {
                    let Some(Waiting { vnode, count }) = self.waiting.remove(&row) else { continue };
                    self.waiting_changed.insert(row.clone());
                    self.keep(&row, vnode, &answer, count);
                    self.decide(row, vnode, answer.clone(), count, false);
                }
            }
        }
        Ok(some)
    }

    /// Hands what was decided to the log.
    fn write(&self) -> Arc<Mutex<Option<storage::Result<()>>>> {
        let written = Arc::new(Mutex::new(None));
        let entries = self.decided.iter().filter(|d| !d.known).map(|d| (d.vnode, d.diff, d.row.as_slice(), &*d.answer));
        let record = answers::encode_record(self.lookups.node, entries);
        let done = written.clone();
        self.lookups.append(record, move |result| *done.lock() = Some(result));
        written
    }

    /// Joins some decisions.
    fn emit(&self, part: &[Decision], out: &mut Output) -> Result<()> {
        let left = row::decode(&self.types, part.iter().map(|d| d.row.as_slice()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(part.len()));
        let left = RecordBatch::try_new_with_options(self.input.clone(), left, &options)?;
        let mut matched = vec![false; part.len()];
        let (mut rows, mut others): (Vec<u32>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for (i, decision) in part.iter().enumerate() {
            if let Some((reason, sqlstate)) = &decision.answer.refused {
                matched[i] = true;
                out.error(RowError {
                    diff: decision.diff,
                    reason: reason.clone(),
                    sqlstate: sqlstate.clone(),
                    split: None,
                    offset: None,
                    raw: Some(expr::row_text(&left, i).into_bytes()),
                });
            }
            for other in &decision.answer.rows {
                rows.push(i as u32);
                others.push(other);
                if rows.len() == OUTPUT_ROWS_MAX {
                    self.emit_pairs(part, &left, &rows, &others, &mut matched, out)?;
                    (rows, others) = (Vec::new(), Vec::new());
                }
            }
        }
        self.emit_pairs(part, &left, &rows, &others, &mut matched, out)?;
        if self.node.outer {
            let alone: Vec<u32> = (0..part.len() as u32).filter(|i| !matched[*i as usize]).collect();
            if !alone.is_empty() {
                let nulls = self.wanted.iter().map(|ty| new_null_array(ty, alone.len())).collect();
                out.emit(self.joined(part, &left, &alone, nulls)?);
            }
        }
        Ok(())
    }

    fn emit_pairs(
        &self,
        part: &[Decision],
        left: &RecordBatch,
        rows: &[u32],
        others: &[&[u8]],
        matched: &mut [bool],
        out: &mut Output,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let right = row::decode(&self.wanted, others.iter().copied())?;
        let mut joined = self.joined(part, left, rows, right)?;
        match &self.condition {
            None => rows.iter().for_each(|i| matched[*i as usize] = true),
            Some(condition) => {
                let values = condition.evaluate_rows(&joined);
                expr::row_errors(&joined, &values.failures).into_iter().for_each(|error| out.error(error));
                let passed = values.array.as_boolean();
                let keep = |n: usize| passed.is_valid(n) && passed.value(n);
                let passed: arrow::array::BooleanArray = (0..rows.len()).map(|n| Some(keep(n))).collect();
                rows.iter().enumerate().filter(|(n, _)| passed.value(*n)).for_each(|(_, i)| matched[*i as usize] = true);
                joined = joined.filter(&passed)?;
            }
        }
        out.emit(joined);
        Ok(())
    }

    fn joined(&self, part: &[Decision], left: &RecordBatch, rows: &[u32], right: Vec<ArrayRef>) -> Result<Batch> {
        let taken = arrow::compute::take_record_batch(left, &UInt32Array::from(rows.to_vec()))?;
        let columns = taken.columns().iter().cloned().chain(right).collect();
        batch(&self.node.schema, columns, rows.iter().map(|i| part[*i as usize].diff).collect())
    }

    fn save(&mut self) {
        for row in std::mem::take(&mut self.waiting_changed) {
            match self.waiting.get(&row) {
                Some(waiting) => self.waiting_table.put(waiting.vnode, &row, &waiting.count.to_le_bytes()),
                None => self.waiting_table.delete(self.vnode(&row), &row),
            }
        }
        for row in std::mem::take(&mut self.changed) {
            match self.kept.get(&row) {
                Some(kept) => {
                    let mut value = Vec::new();
                    for (answer, count) in &kept.answers {
                        value.extend(count.to_le_bytes());
                        answers::put(&mut value, &answer.encode());
                    }
                    self.answers_table.put(kept.vnode, &row, &value);
                }
                None => self.answers_table.delete(self.vnode(&row), &row),
            }
        }
    }

    /// Where a row belongs that is not there any more.
    fn vnode(&self, row: &[u8]) -> u8 {
        let columns = self.key_columns(&[row]).expect("it was decoded before");
        storage::batch::vnodes(&columns, 1)[0]
    }
}

/// Takes up to `count` answers, those first that were given last.
fn take_last(answers: &mut Given, count: i64) -> Given {
    let (mut taken, mut left) = (Vec::new(), count);
    while left > 0
        && let Some((answer, there)) = answers.last_mut()
    {
        let n = left.min(*there);
        taken.push((answer.clone(), n));
        (left, *there) = (left - n, *there - n);
        if *there == 0 {
            answers.pop();
        }
    }
    taken
}

impl Task for LookupJoinTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        let rows = row::encode_rows(delta.data().columns(), delta.num_rows())?;
        let keys: Vec<ArrayRef> = self.node.keys.iter().map(|k| delta.column(*k).clone()).collect();
        let vnodes = storage::batch::vnodes(&keys, delta.num_rows());
        for (i, vnode) in vnodes.into_iter().enumerate() {
            let change = self.changes.entry(rows.get(i).to_vec()).or_insert((vnode, 0));
            change.1 += delta.diff(i);
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        loop {
            match &self.phase {
                Phase::Open => {
                    self.asker.away(false, &self.lookups);
                    self.begin(at.recovering)?;
                    self.phase = Phase::Asking(Instant::now() + PATIENCE);
                }
                Phase::Asking(until) => {
                    let until = *until;
                    self.ask()?;
                    if self.take_replies()? {
                        self.phase = Phase::Asking(Instant::now() + PATIENCE);
                        continue;
                    }
                    if !self.waiting.is_empty() && self.asker.is_healthy() && Instant::now() < until {
                        return Ok(Progress::Wait);
                    }
                    self.phase = match self.decided.iter().all(|d| d.known) {
                        true => Phase::Emitting,
                        false => Phase::Writing(self.write()),
                    };
                }
                Phase::Writing(written) => {
                    let Some(result) = written.lock().take() else { return Ok(Progress::Wait) };
                    result?;
                    self.phase = Phase::Emitting;
                }
                Phase::Emitting => {
                    while self.emitted < self.decided.len() {
                        let until = (self.emitted + KEYS_MAX).min(self.decided.len());
                        self.emit(&self.decided[self.emitted..until], out)?;
                        self.emitted = until;
                        if out.is_full() {
                            return Ok(Progress::More);
                        }
                    }
                    (self.decided, self.emitted) = (Vec::new(), 0);
                    break;
                }
            }
        }
        self.phase = Phase::Open;
        if !at.recovering && !self.owed.is_empty() {
            // What was visible is visible again.
            self.owed.clear();
        }
        self.owed.retain(|_, answers| !answers.is_empty());
        self.lookups.owes(!self.owed.is_empty());
        self.lookups.waits(self.waiting.len() as u64);
        if at.checkpoint {
            self.save();
        }
        self.asker.away(!self.waiting.is_empty(), &self.lookups);
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        let waiting: usize = self.waiting.keys().map(|row| row.len() + size_of::<Waiting>()).sum();
        StateSize { rows: (self.waiting.len() + self.kept.len()) as u64, bytes: (self.bytes + waiting) as u64 }
    }
}

impl Drop for LookupJoinTask {
    fn drop(&mut self) {
        self.lookups.waits(0);
    }
}
