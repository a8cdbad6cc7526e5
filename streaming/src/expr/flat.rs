//! How the catalog keeps an expression: its nodes one after the other, operands first, so that a deep one is a long list and
//! no deep text.
//!
//! ```text
//! a + b + c   Column(a) Column(b) Call(+, 2) Column(c) Call(+, 2)
//! ```

use std::fmt;

use arrow_schema::DataType;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BinaryOp, Expr, Literal};

/// Operands below each other, at most: what runs over an expression recurses, also on threads with ordinary stacks.
pub const DEPTH_MAX: usize = 320;

/// A node whose operands are the ones before it.
#[derive(Serialize, Deserialize)]
enum Flat {
    Column(usize),
    Literal(Literal),
    Call { function: String, args: usize, returns: DataType },
    Binary(BinaryOp),
    Not,
    IsNull,
    Case { when: usize, otherwise: bool, returns: DataType },
    InList { list: usize, negated: bool },
    Cast { to: DataType },
}

impl Expr {
    /// Its operands, in the order in which they are written.
    fn operands(&self) -> Vec<&Expr> {
        match self {
            Expr::Column(_) | Expr::Literal(_) => vec![],
            Expr::Call { args, .. } => args.iter().collect(),
            Expr::Binary { left, right, .. } => vec![left, right],
            Expr::Not(e) | Expr::IsNull(e) | Expr::Cast { expr: e, .. } => vec![e],
            Expr::Case { when, otherwise, .. } => {
                when.iter().flat_map(|(c, r)| [c, r]).chain(otherwise.as_deref()).collect()
            }
            Expr::InList { expr, list, .. } => std::iter::once(&**expr).chain(list).collect(),
        }
    }

    /// How many operands stand below each other. Does not recurse.
    pub fn depth(&self) -> usize {
        let (mut deepest, mut open) = (0, vec![(self, 1)]);
        while let Some((e, depth)) = open.pop() {
            deepest = deepest.max(depth);
            open.extend(e.operands().into_iter().map(|operand| (operand, depth + 1)));
        }
        deepest
    }

    fn flat(&self) -> Flat {
        match self {
            Expr::Column(column) => Flat::Column(*column),
            Expr::Literal(literal) => Flat::Literal(literal.clone()),
            Expr::Call { function, args, returns } => {
                Flat::Call { function: function.clone(), args: args.len(), returns: returns.clone() }
            }
            Expr::Binary { op, .. } => Flat::Binary(*op),
            Expr::Not(_) => Flat::Not,
            Expr::IsNull(_) => Flat::IsNull,
            Expr::Case { when, otherwise, returns } => {
                Flat::Case { when: when.len(), otherwise: otherwise.is_some(), returns: returns.clone() }
            }
            Expr::InList { list, negated, .. } => Flat::InList { list: list.len(), negated: *negated },
            Expr::Cast { to, .. } => Flat::Cast { to: to.clone() },
        }
    }

    /// The expression of a list of nodes.
    fn of(nodes: Vec<Flat>) -> Option<Expr> {
        let mut done: Vec<(Expr, usize)> = Vec::new();
        for node in nodes {
            let n = match &node {
                Flat::Column(_) | Flat::Literal(_) => 0,
                Flat::Call { args, .. } => *args,
                Flat::Binary(_) => 2,
                Flat::Not | Flat::IsNull | Flat::Cast { .. } => 1,
                Flat::Case { when, otherwise, .. } => when.checked_mul(2)? + usize::from(*otherwise),
                Flat::InList { list, .. } => list.checked_add(1)?,
            };
            let operands = done.split_off(done.len().checked_sub(n)?);
            let depth = operands.iter().map(|(_, depth)| depth + 1).max().unwrap_or(1);
            if depth > DEPTH_MAX {
                return None;
            }
            let mut operands = operands.into_iter().map(|(e, _)| e);
            let mut next = || operands.next().map(Box::new);
            let e = match node {
                Flat::Column(column) => Expr::Column(column),
                Flat::Literal(literal) => Expr::Literal(literal),
                Flat::Call { function, returns, .. } => Expr::Call { function, args: operands.collect(), returns },
                Flat::Binary(op) => Expr::Binary { op, left: next()?, right: next()? },
                Flat::Not => Expr::Not(next()?),
                Flat::IsNull => Expr::IsNull(next()?),
                Flat::Cast { to } => Expr::Cast { expr: next()?, to },
                Flat::Case { when, returns, .. } => Expr::Case {
                    when: (0..when).map(|_| Some((*next()?, *next()?))).collect::<Option<_>>()?,
                    otherwise: next(),
                    returns,
                },
                Flat::InList { negated, .. } => Expr::InList { expr: next()?, list: operands.collect(), negated },
            };
            done.push((e, depth));
        }
        let (e, _) = done.pop()?;
        done.is_empty().then_some(e)
    }
}

impl Serialize for Expr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Each node in front of its operands, the last operand first: backwards that is the list.
        let (mut nodes, mut open) = (Vec::new(), vec![self]);
        while let Some(e) = open.pop() {
            nodes.push(e.flat());
            open.extend(e.operands());
        }
        serializer.collect_seq(nodes.iter().rev())
    }
}

/// An expression as catalogs were written before: each node around its operands.
#[derive(Deserialize)]
enum Nested {
    Column(usize),
    Literal(Literal),
    Call { function: String, args: Vec<Expr>, returns: DataType },
    Binary { op: BinaryOp, left: Box<Expr>, right: Box<Expr> },
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    Case { when: Vec<(Expr, Expr)>, otherwise: Option<Box<Expr>>, returns: DataType },
    InList { expr: Box<Expr>, list: Vec<Expr>, negated: bool },
    Cast { expr: Box<Expr>, to: DataType },
}

impl From<Nested> for Expr {
    fn from(nested: Nested) -> Expr {
        match nested {
            Nested::Column(column) => Expr::Column(column),
            Nested::Literal(literal) => Expr::Literal(literal),
            Nested::Call { function, args, returns } => Expr::Call { function, args, returns },
            Nested::Binary { op, left, right } => Expr::Binary { op, left, right },
            Nested::Not(e) => Expr::Not(e),
            Nested::IsNull(e) => Expr::IsNull(e),
            Nested::Case { when, otherwise, returns } => Expr::Case { when, otherwise, returns },
            Nested::InList { expr, list, negated } => Expr::InList { expr, list, negated },
            Nested::Cast { expr, to } => Expr::Cast { expr, to },
        }
    }
}

/// Reads a list of nodes, or a node around its operands.
struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = Expr;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an expression")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, nodes: A) -> Result<Expr, A::Error> {
        let nodes = Vec::<Flat>::deserialize(SeqAccessDeserializer::new(nodes))?;
        Expr::of(nodes).ok_or_else(|| A::Error::custom("an expression is broken, or nested too deeply"))
    }

    fn visit_map<A: MapAccess<'de>>(self, node: A) -> Result<Expr, A::Error> {
        Nested::deserialize(MapAccessDeserializer::new(node)).map(Expr::from)
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Expr, D::Error> {
        deserializer.deserialize_any(EitherForm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(left: Expr, right: Expr) -> Expr {
        Expr::Call { function: "int8_add".into(), args: vec![left, right], returns: DataType::Int64 }
    }

    #[test]
    fn every_form_is_read_as_it_was_written() {
        let one = || Box::new(Expr::Column(1));
        let case = |otherwise| Expr::Case {
            when: vec![
                (Expr::IsNull(one()), Expr::Column(2)),
                (Expr::Column(3), add(Expr::Column(4), Expr::Column(5))),
            ],
            otherwise,
            returns: DataType::Int64,
        };
        for e in [
            Expr::Column(7),
            Expr::Literal(Literal { data_type: DataType::Int64, bytes: None }),
            Expr::Binary { op: BinaryOp::Lt, left: one(), right: Box::new(Expr::Not(one())) },
            case(None),
            case(Some(one())),
            Expr::InList { expr: one(), list: vec![Expr::Column(2), Expr::Column(3)], negated: true },
            Expr::Cast { expr: one(), to: DataType::Utf8 },
        ] {
            let text = serde_json::to_string(&e).unwrap();
            assert_eq!(serde_json::from_str::<Expr>(&text).unwrap(), e, "{text}");
        }
        let nested = r#"{"Not":{"Binary":{"op":"Lt","left":{"Column":1},"right":[{"Column":2},"IsNull"]}}}"#;
        let right = Box::new(Expr::IsNull(Box::new(Expr::Column(2))));
        let expected = Expr::Not(Box::new(Expr::Binary { op: BinaryOp::Lt, left: one(), right }));
        assert_eq!(serde_json::from_str::<Expr>(nested).unwrap(), expected);
        for broken in ["[]", "[\"Not\"]", "[{\"Column\":1},{\"Column\":2}]"] {
            assert!(serde_json::from_str::<Expr>(broken).is_err());
        }
    }

    #[test]
    fn a_deep_expression_is_a_long_list() {
        let check = std::thread::Builder::new().stack_size(16 << 20).spawn(check_deep).unwrap();
        check.join().unwrap();
    }

    fn check_deep() {
        let chain = |n: usize| (1..n).fold(Expr::Column(0), |e, column| add(e, Expr::Column(column)));
        let deep = chain(DEPTH_MAX);
        assert_eq!(deep.depth(), DEPTH_MAX);
        let text = serde_json::to_string(&deep).unwrap();
        assert!(serde_json::from_str::<Expr>(&text).unwrap() == deep);
        let text = serde_json::to_string(&chain(DEPTH_MAX + 1)).unwrap();
        assert!(serde_json::from_str::<Expr>(&text).is_err());
    }
}
