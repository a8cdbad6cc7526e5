//! Sorted runs: immutable lists of changes in key order, and the merge of several of them.
//!
//! Everything between an operator and the disk is a run: what a state table hands to a checkpoint, what a relation
//! keeps of an epoch, what a scan read ahead of the store. All bytes of a run are in one buffer.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::Result;

/// One change. What `diff` says depends on the run: a count, or "there is a value" against "the key is gone".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Where the key begins; the value follows it.
    pub at: usize,
    pub key: u32,
    pub value: u32,
    pub diff: i64,
}

/// Changes sorted by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub data: Vec<u8>,
    pub entries: Vec<Entry>,
}

impl Run {
    pub fn with_capacity(entries: usize, bytes: usize) -> Run {
        Run { data: Vec::with_capacity(bytes), entries: Vec::with_capacity(entries) }
    }

    /// Appends a change whose key is `head` and then `key`.
    pub fn push(&mut self, head: &[u8], key: &[u8], value: &[u8], diff: i64) {
        let at = self.data.len();
        self.data.extend_from_slice(head);
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        let (key, value) = ((head.len() + key.len()) as u32, value.len() as u32);
        self.entries.push(Entry { at, key, value, diff });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn key(&self, i: usize) -> &[u8] {
        let entry = &self.entries[i];
        &self.data[entry.at..entry.at + entry.key as usize]
    }

    pub fn value(&self, i: usize) -> &[u8] {
        let entry = &self.entries[i];
        let at = entry.at + entry.key as usize;
        &self.data[at..at + entry.value as usize]
    }

    pub fn diff(&self, i: usize) -> i64 {
        self.entries[i].diff
    }

    /// The first entry whose key is not below `key`.
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        self.entries.partition_point(|e| &self.data[e.at..e.at + e.key as usize] < key)
    }

    /// The entry of `key`, in a run whose keys are distinct.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let i = self.lower_bound(key);
        (i < self.len() && self.key(i) == key).then_some(i)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.data.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Whether no key stands twice.
    pub fn has_distinct_keys(&self) -> bool {
        (1..self.len()).all(|i| self.key(i - 1) != self.key(i))
    }
}

/// Where a cursor gets the next piece from when it is at its end.
pub(crate) trait Refill: Send {
    /// The next run in key order, `None` at the end.
    fn refill(&mut self) -> Result<Option<Arc<Run>>>;
}

/// A position in a run.
pub(crate) struct Cursor {
    run: Arc<Run>,
    at: usize,
    end: usize,
    more: Option<Box<dyn Refill>>,
}

impl Cursor {
    /// All of `run`.
    pub fn all(run: Arc<Run>) -> Cursor {
        let end = run.len();
        Cursor { run, at: 0, end, more: None }
    }

    /// The entries of `run` from the key `from` on and before `to` (`None`: to the end).
    pub fn range(run: Arc<Run>, from: &[u8], to: Option<&[u8]>) -> Cursor {
        let (at, end) = (run.lower_bound(from), to.map_or(run.len(), |to| run.lower_bound(to)));
        Cursor { run, at, end, more: None }
    }

    /// What `more` hands out.
    pub fn refilled(more: Box<dyn Refill>) -> Result<Cursor> {
        let mut cursor = Cursor { run: Arc::default(), at: 0, end: 0, more: Some(more) };
        cursor.fill()?;
        Ok(cursor)
    }

    fn fill(&mut self) -> Result<()> {
        while self.at == self.end
            && let Some(more) = &mut self.more
        {
            match more.refill()? {
                Some(run) => (self.at, self.end, self.run) = (0, run.len(), run),
                None => self.more = None,
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.at == self.end
    }

    fn key(&self) -> &[u8] {
        self.run.key(self.at)
    }
}

/// Walks several cursors in key order at once. Entries of equal keys are handed out together, in the order of the
/// cursors: oldest first.
pub(crate) struct Merge {
    cursors: Vec<Cursor>,
    /// A heap of the cursors that have something left, the smallest key at the top.
    heap: Vec<u32>,
    /// The cursors that stand at the current key.
    group: Vec<u32>,
    /// Leading bytes of a key that do not count.
    skip: usize,
}

impl Merge {
    /// `skip` leading bytes of keys are not compared.
    pub fn new(cursors: Vec<Cursor>, skip: usize) -> Merge {
        let heap = (0..cursors.len() as u32).filter(|c| !cursors[*c as usize].is_done()).collect();
        let mut merge = Merge { cursors, heap, group: Vec::new(), skip };
        for i in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(i);
        }
        merge
    }

    fn compare(&self, a: u32, b: u32) -> Ordering {
        let (x, y) = (&self.cursors[a as usize], &self.cursors[b as usize]);
        x.key()[self.skip..].cmp(&y.key()[self.skip..]).then(a.cmp(&b))
    }

    fn sift_down(&mut self, mut i: usize) {
        loop {
            let mut child = 2 * i + 1;
            if child >= self.heap.len() {
                return;
            }
            if child + 1 < self.heap.len() && self.compare(self.heap[child + 1], self.heap[child]).is_lt() {
                child += 1;
            }
            if self.compare(self.heap[i], self.heap[child]).is_le() {
                return;
            }
            self.heap.swap(i, child);
            i = child;
        }
    }

    fn sift_up(&mut self, mut i: usize) {
        while i > 0 && self.compare(self.heap[i], self.heap[(i - 1) / 2]).is_lt() {
            self.heap.swap(i, (i - 1) / 2);
            i = (i - 1) / 2;
        }
    }

    fn pop(&mut self) -> u32 {
        let top = self.heap.swap_remove(0);
        self.sift_down(0);
        top
    }

    /// Goes to the next key. `false` at the end. A cursor may hand out the same key several times in a row: each is a
    /// step of its own.
    pub fn next(&mut self) -> Result<bool> {
        // Mostly one cursor stays ahead of the others for a while.
        if let [cursor] = self.group[..] {
            let only = &mut self.cursors[cursor as usize];
            only.at += 1;
            if only.at == only.end {
                only.fill()?;
            }
            if !only.is_done() {
                let skip = self.skip;
                let next = self.heap.first().map(|next| &self.cursors[*next as usize].key()[skip..]);
                if next.is_none_or(|next| &self.cursors[cursor as usize].key()[skip..] < next) {
                    return Ok(true);
                }
                self.heap.push(cursor);
                self.sift_up(self.heap.len() - 1);
            }
            self.group.clear();
        }
        for i in 0..self.group.len() {
            let cursor = self.group[i];
            self.cursors[cursor as usize].at += 1;
            self.cursors[cursor as usize].fill()?;
            if !self.cursors[cursor as usize].is_done() {
                self.heap.push(cursor);
                self.sift_up(self.heap.len() - 1);
            }
        }
        self.group.clear();
        if self.heap.is_empty() {
            return Ok(false);
        }
        let first = self.pop();
        self.group.push(first);
        while let Some(next) = self.heap.first().copied() {
            let (a, b) = (&self.cursors[first as usize], &self.cursors[next as usize]);
            if a.key()[self.skip..] != b.key()[self.skip..] {
                break;
            }
            let next = self.pop();
            self.group.push(next);
        }
        Ok(true)
    }

    /// The current key.
    pub fn key(&self) -> &[u8] {
        self.cursors[self.group[0] as usize].key()
    }

    /// The entries of the current key, oldest first: the number of the cursor, value and diff.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (usize, &[u8], i64)> {
        self.group.iter().map(|c| {
            let cursor = &self.cursors[*c as usize];
            (*c as usize, cursor.run.value(cursor.at), cursor.run.diff(cursor.at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(keys: &[&str]) -> Arc<Run> {
        let mut run = Run::default();
        keys.iter().for_each(|k| run.push(b"", k.as_bytes(), k.to_uppercase().as_bytes(), 1));
        Arc::new(run)
    }

    #[test]
    fn merges_in_key_order_and_groups_equal_keys() {
        let runs = [run(&["a", "c", "e"]), run(&["b", "c", "f"]), run(&[]), run(&["c"])];
        let mut merge = Merge::new(runs.iter().cloned().map(Cursor::all).collect(), 0);
        let mut seen = Vec::new();
        while merge.next().unwrap() {
            let sources: Vec<_> = merge.entries().map(|(c, ..)| c.to_string()).collect();
            seen.push(format!("{}{}", String::from_utf8_lossy(merge.key()), sources.join("")));
        }
        assert_eq!(seen.join(" "), "a0 b1 c013 e0 f1");
    }

    #[test]
    fn finds_keys_and_ranges() {
        let run = run(&["a", "c", "e"]);
        assert_eq!((run.find(b"c"), run.find(b"b"), run.find(b"z")), (Some(1), None, None));
        let mut merge = Merge::new(vec![Cursor::range(run, b"b", Some(b"e"))], 0);
        assert!(merge.next().unwrap());
        assert_eq!(merge.key(), b"c");
        assert!(!merge.next().unwrap());
    }
}
