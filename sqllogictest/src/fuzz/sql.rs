//! SQL as a tree that knows where it can be cut smaller.

use std::fmt;

use super::kind::Kind;

/// A piece of SQL.
#[derive(Clone, Debug, PartialEq)]
pub enum Sql {
    /// Text that stays as it is.
    Text(String),
    /// Parts in their order.
    Parts(Vec<Sql>),
    /// An expression of a type: any expression of the same type can stand in its place.
    Value(Kind, Vec<Sql>),
    /// What may be left out.
    Maybe(Vec<Sql>),
    /// Items of which some may be left out.
    List {
        /// What stands between two of them.
        separator: &'static str,
        /// The items.
        items: Vec<Sql>,
        /// How many must stay.
        least: usize,
    },
    /// A query: any query inside of it can stand in its place.
    Query(Vec<Sql>),
}

/// Text that stays as it is.
pub fn text(text: impl Into<String>) -> Sql {
    Sql::Text(text.into())
}

/// Parts in their order.
pub fn parts(parts: impl IntoIterator<Item = Sql>) -> Sql {
    Sql::Parts(parts.into_iter().collect())
}

/// What may be left out.
pub fn maybe(parts: impl IntoIterator<Item = Sql>) -> Sql {
    Sql::Maybe(parts.into_iter().collect())
}

/// Items with a comma between them, of which one must stay.
pub fn list(items: Vec<Sql>) -> Sql {
    Sql::List { separator: ", ", items, least: 1 }
}

impl Sql {
    fn children(&self) -> &[Sql] {
        match self {
            Sql::Text(_) => &[],
            Sql::Parts(children) | Sql::Value(_, children) | Sql::Maybe(children) | Sql::Query(children) => children,
            Sql::List { items, .. } => items,
        }
    }

    fn with_child(&self, at: usize, child: Sql) -> Sql {
        let mut new = self.clone();
        match &mut new {
            Sql::Text(_) => {}
            Sql::Parts(children) | Sql::Value(_, children) | Sql::Maybe(children) | Sql::Query(children) => {
                children[at] = child;
            }
            Sql::List { items, .. } => items[at] = child,
        }
        new
    }

    /// Everything inside, biggest first.
    fn inner(&self) -> Vec<&Sql> {
        let mut found = Vec::new();
        let mut level: Vec<&Sql> = self.children().iter().collect();
        while !level.is_empty() {
            found.extend(&level);
            level = level.into_iter().flat_map(Sql::children).collect();
        }
        found
    }

    /// What can stand in the place of this whole piece.
    fn replacements(&self) -> Vec<Sql> {
        match self {
            Sql::Text(_) | Sql::Parts(_) => Vec::new(),
            Sql::Value(kind, parts) => {
                let simple = matches!(parts.as_slice(), [Sql::Text(_)]);
                let mut found: Vec<Sql> = if simple { Vec::new() } else { vec![text(kind.simplest())] };
                let same =
                    self.inner().into_iter().filter(|inner| matches!(inner, Sql::Value(other, _) if other == kind));
                found.extend(same.cloned());
                found
            }
            Sql::Maybe(parts) => {
                if parts.is_empty() {
                    Vec::new()
                } else {
                    vec![Sql::Maybe(Vec::new())]
                }
            }
            Sql::List { separator, items, least } => {
                let without = |at: usize| {
                    let mut items = items.clone();
                    items.remove(at);
                    Sql::List { separator, items, least: *least }
                };
                if items.len() > *least { (0..items.len()).map(without).collect() } else { Vec::new() }
            }
            Sql::Query(_) => self.inner().into_iter().filter(|inner| matches!(inner, Sql::Query(_))).cloned().collect(),
        }
    }

    /// The same with one cut in it, the largest cuts first. Not each of them is valid SQL.
    pub fn cuts(&self) -> Vec<Sql> {
        let mut found = self.replacements();
        for (at, child) in self.children().iter().enumerate() {
            found.extend(child.cuts().into_iter().map(|child| self.with_child(at, child)));
        }
        found
    }
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sql::Text(text) => f.write_str(text),
            Sql::List { separator, items, .. } => {
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        f.write_str(separator)?;
                    }
                    item.fmt(f)?;
                }
                Ok(())
            }
            Sql::Parts(children) | Sql::Value(_, children) | Sql::Maybe(children) | Sql::Query(children) => {
                children.iter().try_for_each(|child| child.fmt(f))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_smaller_pieces_of_the_same_type() {
        let value = |name: &str| Sql::Value(Kind::Int, vec![text(name)]);
        let sum = Sql::Value(Kind::Int, vec![text("("), value("a"), text(" + "), value("b"), text(")")]);
        let query = Sql::Query(vec![text("SELECT "), list(vec![sum, value("c")]), maybe([text(" FROM t")])]);
        assert_eq!(query.to_string(), "SELECT (a + b), c FROM t");
        let cuts: Vec<String> = query.cuts().iter().map(Sql::to_string).collect();
        assert_eq!(
            cuts,
            [
                "SELECT c FROM t",
                "SELECT (a + b) FROM t",
                "SELECT 1, c FROM t",
                "SELECT a, c FROM t",
                "SELECT b, c FROM t",
                "SELECT (a + b), c"
            ]
        );
    }
}
