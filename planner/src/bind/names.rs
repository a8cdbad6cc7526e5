//! Names in queries: folded as Postgres folds them.

use sqlparser::ast;

use crate::error::{Error, Result};
use crate::statement::ObjectName;

/// A name, lower case unless it was quoted.
pub fn fold(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// Where a name stands.
pub fn position(ident: &ast::Ident) -> Option<usize> {
    let start = ident.span.start;
    (start.line > 0).then_some(start.column as usize)
}

/// `[[database.]schema.]name`
pub fn object_name(name: &ast::ObjectName) -> Result<ObjectName> {
    let idents: Vec<&ast::Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let at = idents.first().and_then(|i| position(i));
    let parts: Vec<String> = idents.into_iter().map(fold).collect();
    if parts.is_empty() || parts.len() > 3 {
        let message = format!("improper qualified name (too many dotted names): {}", parts.join("."));
        let error = Error::new("42601", message);
        return Err(match at {
            Some(at) => error.at(at),
            None => error,
        });
    }
    let mut parts = parts.into_iter().rev();
    let name = parts.next().unwrap_or_default();
    Ok(ObjectName { schema: parts.next(), name, position: at })
}
