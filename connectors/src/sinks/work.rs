//! What one transaction of a target with tables does: the last word on each key, as texts, and where each row comes from.

use std::collections::HashMap;

use arrow::array::Array as _;
use storage::Batch;
use streaming::error::Result;
use streaming::sink::{Changes, Refused, SinkSpec, SinkType};

use super::{Change, changes};
use crate::encoding::Encoder;

/// The rows of a transaction.
#[derive(Default)]
pub(crate) struct Work {
    /// Rows that come: the texts of all columns.
    pub inserts: Vec<Row>,
    /// Keys that go: the texts of the key's columns.
    pub deletes: Vec<Row>,
    batches: Vec<(usize, Batch)>,
}

/// A row of a transaction.
pub(crate) struct Row {
    /// The texts of its values.
    pub values: Vec<Option<String>>,
    /// The batch that it comes from, and the change there.
    origin: (usize, Change),
}

/// How a target wants a value written: of a row of a batch, the value of a column.
pub(crate) type WriteText<'a> = &'a dyn Fn(&Batch, usize, usize) -> String;

/// The batches of each of so many sinks, with their places among those of the attempt.
pub(crate) fn of_each(changes: &mut Changes<'_>, sinks: usize) -> Result<Vec<Vec<(usize, Batch)>>> {
    let mut batches: Vec<Vec<(usize, Batch)>> = (0..sinks).map(|_| Vec::new()).collect();
    for (place, change) in changes.enumerate() {
        let (sink, batch) = change?;
        batches[sink].push((place, batch));
    }
    Ok(batches)
}

impl Work {
    /// The last word on each key; all rows if they are only added. Each batch comes with its place among those of the attempt.
    pub fn new(batches: Vec<(usize, Batch)>, spec: &SinkSpec, text: WriteText<'_>) -> Result<Work> {
        let all: Vec<usize> = (0..spec.columns.len()).collect();
        let texts = |batch: &Batch, row: usize, columns: &[usize]| -> Vec<Option<String>> {
            columns.iter().map(|&c| batch.column(c).is_valid(row).then(|| text(batch, row, c))).collect()
        };
        let mut work = Work::default();
        // In the order in which the keys first come: who is there first is not refused.
        let mut places: HashMap<Vec<Option<String>>, usize> = HashMap::new();
        let mut last: Vec<(usize, Change)> = Vec::new();
        for (b, (_, batch)) in batches.iter().enumerate() {
            for change in changes(batch, spec)? {
                let origin = (b, change);
                match (change.after, change.after.or(change.before)) {
                    (Some(row), _) if spec.kind == SinkType::AppendOnly => {
                        work.inserts.push(Row { values: texts(batch, row, &all), origin });
                    }
                    (_, Some(row)) => {
                        let place = *places.entry(texts(batch, row, &spec.key)).or_insert(last.len());
                        if place == last.len() {
                            last.push(origin);
                        }
                        last[place] = origin;
                    }
                    _ => {}
                }
            }
        }
        work.batches = batches;
        let mut keys: Vec<(usize, Vec<Option<String>>)> = places.into_iter().map(|(key, place)| (place, key)).collect();
        keys.sort_unstable_by_key(|(place, _)| *place);
        for (place, key) in keys {
            let origin = last[place];
            let (b, change) = origin;
            match change.after {
                Some(row) => {
                    let values = texts(&work.batches[b].1, row, &all);
                    work.inserts.push(Row { values, origin });
                }
                None => work.deletes.push(Row { values: key, origin }),
            }
        }
        Ok(work)
    }

    /// What is said of a row that the target refuses.
    pub fn refused(&self, row: &Row, encoder: &Encoder, reason: String, sqlstate: String) -> Refused {
        let (b, change) = row.origin;
        let (batch, changes) = &self.batches[b];
        let mut raw = String::new();
        if let Some(row) = change.after.or(change.before) {
            encoder.row(changes, row, &mut raw);
        }
        let rows = change.before.into_iter().chain(change.after).collect();
        Refused { batch: *batch, rows, raw: raw.into_bytes(), reason, sqlstate }
    }
}

/// Whether a SQLSTATE speaks of a row, so that another row may fare better: its data, a constraint, a check of a view, what a
/// trigger raises, its size.
pub(crate) fn is_of_a_row(sqlstate: &str) -> bool {
    ["22", "23", "44", "54", "P0001"].iter().any(|class| sqlstate.starts_with(class))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use streaming::expr::Functions;

    use super::*;
    use crate::sinks::tests::{Plain, batch, spec};

    #[test]
    fn the_last_change_of_a_key_counts_and_is_refused_as_one() {
        let spec = spec("postgres", SinkType::Upsert, &[]);
        let functions: Arc<dyn Functions> = Arc::new(Plain);
        let text = |batch: &Batch, row: usize, c: usize| {
            let mut text = String::new();
            functions.write_text(batch.column(c).as_ref(), row, &spec.columns[c].ty, &mut text);
            text
        };
        let first = batch(&[(1, "a", 1), (2, "b", 1), (3, "c", -1)]);
        let second = batch(&[(1, "a", -1), (1, "z", 1), (2, "b", -1)]);
        let work = Work::new(vec![(3, first), (4, second)], &spec, &text).unwrap();
        let insert = &work.inserts[0];
        assert_eq!((work.inserts.len(), insert.values[1].as_deref()), (1, Some("z")));
        let mut deletes: Vec<_> = work.deletes.iter().map(|row| row.values[0].clone().unwrap()).collect();
        deletes.sort();
        assert_eq!(deletes, ["2", "3"]);
        let encoder = Encoder::new(&spec, functions.clone()).unwrap();
        let refused = work.refused(insert, &encoder, "no".into(), "23514".into());
        assert_eq!((refused.batch, refused.rows), (4, vec![0, 1]));
        assert_eq!(String::from_utf8(refused.raw).unwrap(), r#"{"id":1,"name":"z"}"#);
    }

    #[test]
    fn a_target_that_is_away_is_no_fault_of_a_row() {
        assert!(["23505", "22003", "P0001", "54000"].iter().all(|code| is_of_a_row(code)));
        assert!(!["08006", "40001", "42P01", "53100", "57P01"].iter().any(|code| is_of_a_row(code)));
    }
}
