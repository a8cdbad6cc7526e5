//! What a table outside said of a key, as bytes: in the state and in the log.
//!
//! ```text
//!  answer   0 u8 | n u32 | n x ( length u32 | row )         or   1 u8 | SQLSTATE 5 | length u32 | reason
//!  record   node u32 | n x ( vnode u8 | diff i64 | length u32 | row | length u32 | answer )
//! ```

/// What was answered of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The rows, in the store's encoding of those columns that were asked for.
    pub rows: Vec<Vec<u8>>,
    /// Why they cannot be read, and its SQLSTATE.
    pub refused: Option<(String, String)>,
}

/// A row got an answer, or takes it back.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the row belongs.
    pub vnode: u8,
    /// How often.
    pub diff: i64,
    /// The row.
    pub row: Vec<u8>,
    /// The answer.
    pub answer: Answer,
}

impl Answer {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.refused {
            None => {
                out.push(0);
                out.extend((self.rows.len() as u32).to_le_bytes());
                self.rows.iter().for_each(|row| put(&mut out, row));
            }
            Some((reason, sqlstate)) => {
                out.push(1);
                put(&mut out, sqlstate.as_bytes());
                put(&mut out, reason.as_bytes());
            }
        }
        out
    }

    /// From its bytes; `None` if they are none.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let (kind, mut rest) = bytes.split_first()?;
        let rest = &mut rest;
        let text = |bytes: Option<&[u8]>| Some(String::from_utf8_lossy(bytes?).into_owned());
        Some(match kind {
            0 => {
                let n = number(rest)?;
                let rows = (0..n).map(|_| Some(take(rest)?.to_vec())).collect::<Option<_>>()?;
                Answer { rows, refused: None }
            }
            _ => {
                let sqlstate = text(take(rest))?;
                Answer { rows: Vec::new(), refused: Some((text(take(rest))?, sqlstate)) }
            }
        })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Answer>() + self.rows.iter().map(|row| size_of::<Vec<u8>>() + row.len()).sum::<usize>()
    }
}

/// A record of the log.
pub fn encode_record<'a>(node: usize, entries: impl Iterator<Item = (u8, i64, &'a [u8], &'a Answer)>) -> Vec<u8> {
    let mut out = (node as u32).to_le_bytes().to_vec();
    for (vnode, diff, row, answer) in entries {
        out.push(vnode);
        out.extend(diff.to_le_bytes());
        put(&mut out, row);
        put(&mut out, &answer.encode());
    }
    out
}

/// The entries of a record of `node`; none of another's, and `None` if it is broken.
pub fn decode_record(node: usize, record: &[u8]) -> Option<Vec<Entry>> {
    let mut rest = record;
    let rest = &mut rest;
    let mut entries = Vec::new();
    if number(rest)? as usize != node {
        return Some(entries);
    }
    while !rest.is_empty() {
        let (vnode, tail) = rest.split_first()?;
        let (diff, tail) = tail.split_first_chunk::<8>()?;
        *rest = tail;
        let row = take(rest)?.to_vec();
        let answer = Answer::decode(take(rest)?)?;
        entries.push(Entry { vnode: *vnode, diff: i64::from_le_bytes(*diff), row, answer });
    }
    Some(entries)
}

/// Bytes behind their length.
pub fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

/// Bytes behind their length, taken off `rest`.
pub fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n = number(rest)? as usize;
    let (bytes, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(bytes)
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (n, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_le_bytes(*n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let found = Answer { rows: vec![vec![1, 2], vec![]], refused: None };
        let refused = Answer { rows: vec![], refused: Some(("not a date".into(), "22007".into())) };
        let entries = [(7, 2, b"a".as_slice(), &found), (9, -1, b"".as_slice(), &refused)];
        let record = encode_record(3, entries.into_iter());
        let read = decode_record(3, &record).unwrap();
        assert_eq!(read[0], Entry { vnode: 7, diff: 2, row: b"a".to_vec(), answer: found });
        assert_eq!(read[1], Entry { vnode: 9, diff: -1, row: vec![], answer: refused });
        assert_eq!(decode_record(2, &record), Some(vec![]));
        assert_eq!(decode_record(3, &record[..record.len() - 1]), None);
    }
}
