//! Row expressions: plain data in a plan, DataFusion's physical expressions when they run.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::logical_expr::ScalarUDF;
use serde::{Deserialize, Serialize};

/// The SQL functions by name. The planner's registry implements it, so that streams and reads run the same code.
pub trait Functions: Send + Sync {
    /// The function that plans call `name`.
    fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>>;
}

/// A typed expression over the columns of one batch, as the catalog keeps it.
///
/// Everything that can fail or that Postgres defines differently from Arrow is a [`Expr::Call`]; what is left are the
/// forms that need lazy or three-valued evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Expr {
    /// The input column at this position.
    Column(usize),
    /// A constant, written as one Arrow value (see [`Literal`]).
    Literal(Literal),
    /// A function of the registry.
    Call {
        /// Its name in [`Functions`].
        function: String,
        /// Its arguments.
        args: Vec<Expr>,
        /// The type of its result.
        returns: DataType,
    },
    /// `left <op> right` for comparisons of equal Arrow types, IS [NOT] DISTINCT FROM, AND and OR.
    Binary {
        /// The operator.
        op: BinaryOp,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
    },
    /// NOT
    Not(Box<Expr>),
    /// IS NULL
    IsNull(Box<Expr>),
    /// `CASE WHEN c THEN r ... ELSE e END`: a branch is evaluated only for the rows that reach it.
    Case {
        /// Conditions (boolean) and results.
        when: Vec<(Expr, Expr)>,
        /// The ELSE branch; NULL if absent.
        otherwise: Option<Box<Expr>>,
        /// The type of the result.
        returns: DataType,
    },
    /// `e IN (constants)`
    InList {
        /// The tested value.
        expr: Box<Expr>,
        /// Constants or expressions of the same type.
        list: Vec<Expr>,
        /// NOT IN
        negated: bool,
    },
    /// A change of the Arrow type that cannot fail and that changes no value (text to name, oid to bigint).
    Cast {
        /// The operand.
        expr: Box<Expr>,
        /// The type to see it as.
        to: DataType,
    },
}

/// The operators of [`Expr::Binary`].
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BinaryOp {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
    And,
    Or,
    IsDistinctFrom,
    IsNotDistinctFrom,
}

/// A constant: one value of an Arrow type, kept as its bytes in the store's row encoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Literal {
    /// Its type.
    pub data_type: DataType,
    /// Its bytes (see `storage::row`); `None` is NULL.
    pub bytes: Option<Vec<u8>>,
}
