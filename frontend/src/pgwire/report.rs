//! Errors and notices as messages, with the fields that Postgres' have.

use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

use crate::error::Error;
use crate::pgwire::wire::Wire;

impl Wire {
    /// Says that a statement failed.
    pub fn put_error(&mut self, error: &Error) {
        self.put(error_message(error));
    }

    /// Says something that is no error.
    pub fn put_notice(&mut self, notice: &Error) {
        self.put(PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields(notice))));
    }
}

/// An error as a message.
pub fn error_message(error: &Error) -> PgWireBackendMessage {
    PgWireBackendMessage::ErrorResponse(ErrorResponse::new(fields(error)))
}

fn fields(error: &Error) -> Vec<(u8, String)> {
    let e = error.fields();
    let name = e.severity.name().to_owned();
    let mut fields = vec![(b'S', name.clone()), (b'V', name), (b'C', e.sqlstate.clone()), (b'M', clean(&e.message))];
    let position = e.position.map(|p| p.to_string());
    for (code, value) in [
        (b'D', &e.detail),
        (b'H', &e.hint),
        (b'P', &position),
        (b'W', &e.context),
        (b's', &e.schema),
        (b't', &e.table),
        (b'c', &e.column),
        (b'n', &e.constraint),
    ] {
        if let Some(value) = value {
            fields.push((code, clean(value)));
        }
    }
    fields
}

/// A string that fits a wire field: no NUL, and no more than a person can read.
fn clean(text: &str) -> String {
    const CHARS_MAX: usize = 16 << 10;
    match text.char_indices().nth(CHARS_MAX) {
        None if !text.contains('\0') => text.to_owned(),
        None => text.replace('\0', "?"),
        Some((end, _)) => format!("{}...", text[..end].replace('\0', "?")),
    }
}
