//! Names as they are written: identifiers folded as Postgres folds them, and where they stand.

use sqlparser::ast::{self, Spanned};

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

/// Where anything starts.
pub fn start_of(node: &impl Spanned) -> Option<usize> {
    let start = node.span().start;
    (start.line > 0).then_some(start.column as usize)
}

/// `[[database.]schema.]name`
pub fn object_name(name: &ast::ObjectName) -> Result<ObjectName> {
    let idents: Vec<&ast::Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let place = idents.first().and_then(|i| position(i));
    let placed = |error: Error| match place {
        Some(place) => error.at(place),
        None => error,
    };
    if let Some(first) = idents.first()
        && first.quote_style.is_none()
        && super::is_reserved(&first.value)
    {
        return Err(placed(Error::new("42601", format!("syntax error at or near \"{}\"", first.value))));
    }
    let parts: Vec<String> = idents.into_iter().map(fold).collect();
    if parts.is_empty() || parts.len() > 3 {
        let message = format!("improper qualified name (too many dotted names): {}", parts.join("."));
        return Err(placed(Error::new("42601", message)));
    }
    let mut parts = parts.into_iter().rev();
    let name = parts.next().unwrap_or_default();
    Ok(ObjectName { schema: parts.next(), name, position: place })
}
