//! Partial results: what some rows of a group add to its aggregates, as bytes that merge.
//!
//! ```text
//! group columns ... | rows bigint | per aggregate: bytes; NULL where these rows say nothing of it
//!                                   an aggregate in words: its words; otherwise what its accumulator encodes
//! ```

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_schema::SchemaRef;
use storage::Batch;

use super::{Aggregate, GroupKeys, Groups, Layout, Place, ROWS, offer, set_wide, wide};
use crate::byte_table::LOOKUP_ROWS;
use crate::error::{Error, Result};
use crate::operator::{OUTPUT_ROWS_MAX, Output, StateSize};

/// Groups that are combined before they are handed on within an epoch.
pub(in crate::operators) const LOCAL_GROUPS_MAX: usize = 32_768;

impl Groups {
    /// Adds partial results to the records of their groups.
    pub(super) fn merge_partials(&mut self, delta: &Batch) -> Result<()> {
        if delta.diffs().is_some_and(|diffs| diffs.values().iter().any(|diff| *diff != 1)) {
            return Err(Error::Failed("a partial result was taken back".into()));
        }
        let stride = self.layout.stride;
        let width = self.layout.group.len();
        let rows = delta.column(width).as_primitive::<Int64Type>();
        let keys = GroupKeys::new(&self.layout, &self.keys, delta)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        for first in (0..delta.num_rows()).step_by(LOOKUP_ROWS) {
            let n = LOOKUP_ROWS.min(delta.num_rows() - first);
            numbers.clear();
            self.find(&keys, first, n, &mut numbers)?;
            for (i, number) in numbers.iter().enumerate() {
                self.words[*number as usize * stride + ROWS] += rows.value(first + i);
            }
            for call in 0..self.layout.places.len() {
                let parts = delta.column(width + 1 + call).as_binary_view();
                for (i, number) in numbers.iter().enumerate().filter(|(i, _)| parts.is_valid(first + i)) {
                    self.merge_part(call, *number, parts.value(first + i))?;
                }
            }
        }
        self.numbers = numbers;
        Ok(())
    }

    fn merge_part(&mut self, call: usize, number: u32, part: &[u8]) -> Result<()> {
        let place = self.layout.places[call];
        if let Place::Own(own) = place {
            let n = self.prototypes.len();
            return self.own[number as usize * n + own].as_mut().expect("record is open").merge(part);
        }
        let range = place.words();
        let mut words = [0_i64; 3];
        if part.len() != range.len() * 8 {
            return Err(Error::Failed("a partial result is cut short".into()));
        }
        for (word, bytes) in words.iter_mut().zip(part.chunks_exact(8)) {
            *word = i64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
        let record = &mut self.words[number as usize * self.layout.stride..][range];
        match place {
            Place::Extreme { max, .. } if words[0] != 0 => offer(record, words[1], max),
            Place::Extreme { .. } => {}
            Place::Count(_) => record[0] += words[0],
            _ => {
                let sum = wide(record, 0) + wide(&words, 0);
                set_wide(record, 0, sum);
                record[2] += words[2];
            }
        }
        Ok(())
    }

    /// What the rows of a record add to an aggregate.
    fn part(&self, call: usize, number: u32, out: &mut Vec<u8>) {
        match self.layout.places[call] {
            Place::Own(own) => self.own_of(number)[own].as_ref().expect("record is open").encode(out),
            place => self.record(number)[place.words()].iter().for_each(|word| out.extend(word.to_le_bytes())),
        }
    }

    /// Forgets every group. Nothing of them was saved.
    fn clear(&mut self) {
        self.keys = self.layout.no_keys();
        self.words.clear();
        self.own.clear();
        self.free.clear();
        self.dirty.clear();
        self.saved.clear();
        self.saved_own.clear();
        self.changed.clear();
        (self.next, self.live) = (0, 0);
    }
}

/// The groups of rows that have not been handed on yet.
pub(in crate::operators) struct LocalGroups {
    groups: Groups,
    /// Per column of partial results the aggregate here that it is of, if there is one.
    columns: Vec<Option<usize>>,
    counts_rows: bool,
    schema: SchemaRef,
}

impl LocalGroups {
    /// No groups of `node`, which names the partial results' columns. Those of aggregates that it does not have are NULL.
    pub(in crate::operators) fn new(
        node: &Aggregate,
        columns: Vec<Option<usize>>,
        counts_rows: bool,
        input: &SchemaRef,
    ) -> Result<LocalGroups> {
        let mut groups = Groups::new(Layout::new(node, input)?)?;
        if groups.prototypes.iter_mut().any(|own| own.multiset().is_some()) {
            return Err(Error::Failed("an aggregate that keeps its inputs has no partial results".into()));
        }
        Ok(LocalGroups { groups, columns, counts_rows, schema: node.schema.clone() })
    }

    /// Adds rows to their groups; too many groups are handed on at once.
    pub(in crate::operators) fn apply(&mut self, delta: &Batch, out: &mut Output) -> Result<()> {
        self.groups.apply(delta)?;
        if self.groups.len() >= LOCAL_GROUPS_MAX { self.emit(out) } else { Ok(()) }
    }

    /// Hands on what the rows since the last time add to their groups, and forgets them.
    pub(in crate::operators) fn emit(&mut self, out: &mut Output) -> Result<()> {
        for numbers in self.groups.dirty.chunks(OUTPUT_ROWS_MAX) {
            let mut columns = self.groups.key_columns(numbers)?;
            let rows = |number: &u32| if self.counts_rows { self.groups.record(*number)[ROWS] } else { 0 };
            columns.push(Arc::new(Int64Array::from_iter_values(numbers.iter().map(rows))));
            columns.extend(self.columns.iter().map(|call| self.parts(*call, numbers)));
            out.emit(Batch::new(RecordBatch::try_new(self.schema.clone(), columns)?, None));
        }
        self.groups.clear();
        Ok(())
    }

    fn parts(&self, call: Option<usize>, numbers: &[u32]) -> ArrayRef {
        let mut builder = BinaryViewBuilder::with_capacity(numbers.len());
        let mut part = Vec::new();
        for number in numbers {
            match call {
                None => builder.append_null(),
                Some(call) => {
                    part.clear();
                    self.groups.part(call, *number, &mut part);
                    builder.append_value(&part);
                }
            }
        }
        Arc::new(builder.finish())
    }

    pub(in crate::operators) fn size(&self) -> StateSize {
        StateSize { rows: self.groups.len() as u64, bytes: self.groups.bytes() as u64 }
    }
}
