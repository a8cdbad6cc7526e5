//! Text to statements.

use crate::error::{Error, Result};
use crate::statement::Statement;

/// One statement of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The statement.
    pub statement: Statement,
    /// Its own text, without the semicolon.
    pub text: String,
    /// Where its text starts in the whole text: characters, the first is 0.
    pub offset: usize,
}

/// Parses all statements of a text. Positions in errors count from the start of the whole text.
pub fn parse(sql: &str) -> Result<Vec<Parsed>> {
    let _ = sql;
    Err(Error::unsupported("SQL text is not parsed yet"))
}
