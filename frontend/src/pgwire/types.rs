//! Columns and rows as messages: type OIDs, sizes and formats, values in text and binary.

use arrow::array::RecordBatch;
use bytes::{BufMut, BytesMut};
use pgwire::messages::data::{FieldDescription, RowDescription};
use planner::types::VECTOR;
use storage::SqlType;

use crate::error::{Error, Result};
use crate::fields::{Field, Format, Style};

/// Where the number of the first element is in an array's binary form.
const ARRAY_LOWER_BOUND: std::ops::Range<usize> = 16..20;

/// The formats of `n` columns or parameters from a message's codes: none is all text, one is for all.
pub fn formats(codes: &[i16], n: usize) -> Result<Vec<Format>> {
    let one = |code: &i16| match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        code => Err(Error::new("22023", format!("unsupported format code: {code}"))),
    };
    match codes {
        [] => Ok(vec![Format::Text; n]),
        [code] => Ok(vec![one(code)?; n]),
        codes if codes.len() == n => codes.iter().map(one).collect(),
        codes => {
            Err(Error::new("08P01", format!("bind message has {} formats but there are {n} columns", codes.len())))
        }
    }
}

/// The message that announces rows.
pub fn row_description(fields: &[Field], formats: &[Format]) -> RowDescription {
    let describe = |(i, f): (usize, &Field)| {
        let ty = if f.ty == SqlType::Unknown { &SqlType::Text } else { &f.ty };
        let code = match formats.get(i) {
            Some(Format::Binary) => 1,
            _ => 0,
        };
        let typmod = if f.typmod == VECTOR { -1 } else { f.typmod };
        let oid = planner::types::shown_oid(ty, f.typmod);
        FieldDescription::new(f.name.clone(), 0, 0, oid, planner::types::len(ty), typmod, code)
    };
    RowDescription::new(fields.iter().enumerate().map(describe).collect())
}

/// Encodes one row as a whole DataRow message.
pub fn put_row(
    out: &mut BytesMut,
    batch: &RecordBatch,
    row: usize,
    fields: &[Field],
    formats: &[Format],
    style: &Style,
    (scratch, binary): &mut (String, Vec<u8>),
) -> Result<()> {
    let start = out.len();
    out.put_u8(b'D');
    out.put_i32(0);
    out.put_i16(fields.len() as i16);
    for (i, field) in fields.iter().enumerate() {
        let array = batch.column(i).as_ref();
        if arrow::array::Array::is_null(array, row) {
            out.put_i32(-1);
            continue;
        }
        let at = out.len();
        out.put_i32(0);
        match formats[i] {
            Format::Text => {
                scratch.clear();
                style.write(array, row, &field.ty, scratch);
                if field.typmod == VECTOR {
                    let numbers = scratch.trim_matches(['{', '}']).replace(',', " ");
                    *scratch = numbers;
                }
                out.put_slice(scratch.as_bytes());
            }
            Format::Binary => {
                binary.clear();
                planner::types::binary::write(array, row, &field.ty, binary);
                if field.typmod == VECTOR
                    && let Some(first) = binary.get_mut(ARRAY_LOWER_BOUND)
                {
                    first.fill(0);
                }
                out.put_slice(binary);
            }
        }
        let length = i32::try_from(out.len() - at - 4).map_err(|_| too_large())?;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    let length = i32::try_from(out.len() - start - 1).map_err(|_| too_large())?;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn too_large() -> Error {
    Error::new("54000", "a row is larger than the protocol can carry")
}
