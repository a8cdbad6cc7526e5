//! Row expressions: plain data in a plan, DataFusion's physical expressions when they run.
//!
//! Vectorised evaluation is tried first. A batch that fails is halved until the failing rows stand alone, so the good
//! rows get their values and each bad row its own error. One row alone is evaluated lazily: AND, OR and CASE do not
//! touch a branch that the row does not reach.

pub mod flat;

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{Operator as DfOperator, ScalarUDF};
use datafusion::physical_expr::expressions::{
    self as physical, BinaryExpr, CaseExpr, CastExpr, Column, IsNullExpr, NotExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use serde::{Deserialize, Serialize};
use storage::Batch;
use storage::numeric::Numeric;

use crate::error::{Error, Result};
use crate::operator::RowError;

/// The SQL functions by name. The planner's registry implements it, so that streams and reads run the same code.
pub trait Functions: Send + Sync {
    /// The function that plans call `name`.
    fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>>;

    /// Appends the text of a value that is not NULL, as SQL has it and with timestamps in UTC.
    fn write_text(&self, values: &dyn Array, row: usize, _ty: &storage::SqlType, out: &mut String) {
        // What has no types of its own shows values as Arrow does.
        out.push_str(&arrow::util::display::array_value_to_string(values, row).unwrap_or_default());
    }
}

/// A typed expression over the columns of one batch, as the catalog keeps it.
///
/// Everything that can fail or that Postgres defines differently from Arrow is a [`Expr::Call`]; what is left are the
/// forms that need lazy or three-valued evaluation.
#[derive(Clone, Debug, PartialEq)]
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

impl Literal {
    /// The constant as a scalar of DataFusion.
    pub fn to_scalar(&self) -> Result<ScalarValue> {
        let array = match &self.bytes {
            None => new_null_array(&self.data_type, 1),
            Some(bytes) => {
                let types = std::slice::from_ref(&self.data_type);
                storage::row::decode(types, std::iter::once(bytes.as_slice()))?.swap_remove(0)
            }
        };
        ScalarValue::try_from_array(&array, 0).map_err(failed)
    }

    /// Keeps a scalar of DataFusion as a constant.
    pub fn from_scalar(scalar: &ScalarValue) -> Result<Literal> {
        let data_type = scalar.data_type();
        if scalar.is_null() {
            return Ok(Literal { data_type, bytes: None });
        }
        let array = scalar.to_array_of_size(1).map_err(failed)?;
        let bytes = storage::row::encode(&[array])?.get(0).to_vec();
        Ok(Literal { data_type, bytes: Some(bytes) })
    }
}

/// Why a row has no value: what one of our functions returns inside [`DataFusionError::External`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    /// Five characters, as Postgres would say.
    pub sqlstate: &'static str,
    /// What is wrong, in Postgres' words.
    pub message: String,
}

impl EvalError {
    /// The error as functions return it.
    pub fn external(sqlstate: &'static str, message: impl Into<String>) -> DataFusionError {
        DataFusionError::External(Box::new(EvalError { sqlstate, message: message.into() }))
    }
}

/// The SQLSTATE and the message inside an error of DataFusion, however it is wrapped. `XX000` if it carries none.
pub fn sqlstate_of(error: &DataFusionError) -> (&'static str, String) {
    match error {
        DataFusionError::External(inner) => of_external(inner.as_ref()),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => sqlstate_of(inner),
        DataFusionError::Shared(inner) => sqlstate_of(inner),
        DataFusionError::Collection(errors) if !errors.is_empty() => sqlstate_of(&errors[0]),
        DataFusionError::ArrowError(inner, _) => of_arrow(inner),
        DataFusionError::NotImplemented(message) => ("0A000", message.clone()),
        DataFusionError::ResourcesExhausted(message) => ("53200", message.clone()),
        other => ("XX000", other.strip_backtrace()),
    }
}

fn of_arrow(error: &ArrowError) -> (&'static str, String) {
    match error {
        ArrowError::DivideByZero => ("22012", "division by zero".into()),
        ArrowError::ArithmeticOverflow(_) => ("22003", "value out of range".into()),
        ArrowError::ExternalError(inner) => of_external(inner.as_ref()),
        other => ("XX000", other.to_string()),
    }
}

fn of_external(error: &(dyn std::error::Error + Send + Sync + 'static)) -> (&'static str, String) {
    if let Some(error) = error.downcast_ref::<EvalError>() {
        (error.sqlstate, error.message.clone())
    } else if let Some(error) = error.downcast_ref::<DataFusionError>() {
        sqlstate_of(error)
    } else if let Some(error) = error.downcast_ref::<ArrowError>() {
        of_arrow(error)
    } else {
        ("XX000", error.to_string())
    }
}

/// An expression made ready for the columns of one schema.
#[derive(Clone, Debug)]
pub struct Evaluator {
    expr: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

/// Makes `expr` ready for batches of `schema`.
pub fn compile(expr: &Expr, schema: &SchemaRef, functions: &Arc<dyn Functions>) -> Result<Evaluator> {
    let expr = physical(expr, schema, functions)?;
    let data_type = expr.data_type(schema).map_err(failed)?;
    Ok(Evaluator { expr, data_type })
}

/// The values of an expression over a batch in which some rows may have failed.
pub struct Values {
    /// One value per row of the batch; NULL where the row failed.
    pub array: ArrayRef,
    /// The rows that failed, in their order, and why.
    pub failures: Vec<(usize, DataFusionError)>,
}

impl Evaluator {
    /// The type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// The values of all rows, or the first error met.
    pub fn evaluate(&self, batch: &Batch) -> Result<ArrayRef, DataFusionError> {
        self.vectorised(batch.data())
    }

    /// The values of the rows that have one, and the errors of the others.
    pub fn evaluate_rows(&self, batch: &Batch) -> Values {
        let mut failures = Vec::new();
        let mut parts = Vec::new();
        self.halve(batch.data(), 0, &mut parts, &mut failures);
        let array = match parts.len() {
            0 => new_null_array(&self.data_type, 0),
            1 => parts.swap_remove(0),
            _ => {
                let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                arrow::compute::concat(&parts).expect("values of one expression have one type")
            }
        };
        Values { array, failures }
    }

    fn vectorised(&self, data: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        self.expr.evaluate(data)?.into_array(data.num_rows())
    }

    fn halve(
        &self,
        data: &RecordBatch,
        first: usize,
        parts: &mut Vec<ArrayRef>,
        failures: &mut Vec<(usize, DataFusionError)>,
    ) {
        match (self.vectorised(data), data.num_rows()) {
            (Ok(array), _) => parts.push(array),
            (Err(_), 0) => {}
            (Err(error), 1) => {
                parts.push(new_null_array(&self.data_type, 1));
                failures.push((first, error));
            }
            (Err(_), n) => {
                self.halve(&data.slice(0, n / 2), first, parts, failures);
                self.halve(&data.slice(n / 2, n - n / 2), first + n / 2, parts, failures);
            }
        }
    }
}

/// Turns the failed rows of `batch` into errors of the job. Each row is reported once, with its first failure.
pub fn row_errors(batch: &Batch, failures: &[(usize, DataFusionError)]) -> Vec<RowError> {
    let mut seen = std::collections::BTreeMap::new();
    for (row, error) in failures {
        seen.entry(*row).or_insert(error);
    }
    seen.into_iter().map(|(row, error)| row_error(batch, row, error)).collect()
}

/// The error of one row of `batch`, with the row as text beside it.
pub fn row_error(batch: &Batch, row: usize, error: &DataFusionError) -> RowError {
    let (sqlstate, reason) = sqlstate_of(error);
    RowError {
        diff: batch.diff(row),
        reason,
        sqlstate: sqlstate.to_string(),
        raw: Some(row_text(batch.data(), row).into_bytes()),
        ..RowError::default()
    }
}

/// A selection of `n` rows without those in `failures`.
pub fn without(n: usize, failures: &[(usize, DataFusionError)]) -> BooleanArray {
    let mut keep = vec![true; n];
    failures.iter().for_each(|(row, _)| keep[*row] = false);
    BooleanArray::from(keep)
}

/// A row as text, for people: `(1,abc,NULL)`.
pub fn row_text(data: &RecordBatch, row: usize) -> String {
    let values: Vec<String> = data.columns().iter().map(|c| value_text(c, row)).collect();
    format!("({})", values.join(","))
}

/// One value as text, for people.
pub fn value_text(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) {
        return "NULL".into();
    }
    if let (DataType::FixedSizeBinary(storage::types::NUMERIC_BYTES), Some(bytes)) =
        (array.data_type(), array.as_any().downcast_ref::<arrow::array::FixedSizeBinaryArray>())
    {
        return Numeric::from_bytes(bytes.value(row)).to_string();
    }
    let options = FormatOptions::default();
    match ArrayFormatter::try_new(array, &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(_) => "?".into(),
    }
}

fn physical(expr: &Expr, schema: &SchemaRef, functions: &Arc<dyn Functions>) -> Result<Arc<dyn PhysicalExpr>> {
    let child = |expr: &Expr| physical(expr, schema, functions);
    Ok(match expr {
        Expr::Column(i) => {
            let field = schema.fields().get(*i).ok_or_else(|| Error::Failed(format!("there is no column ${i}")))?;
            Arc::new(Column::new(field.name(), *i))
        }
        Expr::Literal(literal) => Arc::new(physical::Literal::new(literal.to_scalar()?)),
        Expr::Call { function, args, returns } => {
            let udf = functions
                .scalar(function)
                .ok_or_else(|| Error::NotFound(format!("function {function} does not exist")))?;
            let args = args.iter().map(child).collect::<Result<Vec<_>>>()?;
            let field = Arc::new(Field::new(function, returns.clone(), true));
            Arc::new(ScalarFunctionExpr::new(function, udf, args, field, Arc::new(ConfigOptions::default())))
        }
        Expr::Binary { op, left, right } => Arc::new(BinaryExpr::new(child(left)?, df_operator(*op), child(right)?)),
        Expr::Not(expr) => Arc::new(NotExpr::new(child(expr)?)),
        Expr::IsNull(expr) => Arc::new(IsNullExpr::new(child(expr)?)),
        Expr::Case { when, otherwise, returns } => {
            let when = when.iter().map(|(c, r)| Ok((child(c)?, child(r)?))).collect::<Result<Vec<_>>>()?;
            let otherwise: Arc<dyn PhysicalExpr> = match otherwise {
                Some(expr) => child(expr)?,
                None => Arc::new(physical::Literal::new(ScalarValue::try_from(returns).map_err(failed)?)),
            };
            Arc::new(CaseExpr::try_new(None, when, Some(otherwise)).map_err(failed)?)
        }
        Expr::InList { expr, list, negated } => {
            let list = list.iter().map(child).collect::<Result<Vec<_>>>()?;
            physical::in_list(child(expr)?, list, negated, schema).map_err(failed)?
        }
        Expr::Cast { expr, to } => Arc::new(CastExpr::new(child(expr)?, to.clone(), None)),
    })
}

fn df_operator(op: BinaryOp) -> DfOperator {
    match op {
        BinaryOp::Eq => DfOperator::Eq,
        BinaryOp::NotEq => DfOperator::NotEq,
        BinaryOp::Lt => DfOperator::Lt,
        BinaryOp::LtEq => DfOperator::LtEq,
        BinaryOp::Gt => DfOperator::Gt,
        BinaryOp::GtEq => DfOperator::GtEq,
        BinaryOp::And => DfOperator::And,
        BinaryOp::Or => DfOperator::Or,
        BinaryOp::IsDistinctFrom => DfOperator::IsDistinctFrom,
        BinaryOp::IsNotDistinctFrom => DfOperator::IsNotDistinctFrom,
    }
}

fn failed(error: DataFusionError) -> Error {
    Error::Failed(sqlstate_of(&error).1)
}

impl Expr {
    /// The expression as text; columns by their names in `schema`.
    pub fn display<'a>(&'a self, schema: &'a Schema) -> impl Display + 'a {
        Shown { expr: self, schema: Some(schema) }
    }

    /// Replaces every column by its image under `f`.
    pub fn map_columns(&self, f: &dyn Fn(usize) -> usize) -> Expr {
        let one = |e: &Expr| Box::new(e.map_columns(f));
        let all = |es: &[Expr]| es.iter().map(|e| e.map_columns(f)).collect();
        match self {
            Expr::Column(i) => Expr::Column(f(*i)),
            Expr::Literal(literal) => Expr::Literal(literal.clone()),
            Expr::Call { function, args, returns } => {
                Expr::Call { function: function.clone(), args: all(args), returns: returns.clone() }
            }
            Expr::Binary { op, left, right } => Expr::Binary { op: *op, left: one(left), right: one(right) },
            Expr::Not(e) => Expr::Not(one(e)),
            Expr::IsNull(e) => Expr::IsNull(one(e)),
            Expr::Case { when, otherwise, returns } => Expr::Case {
                when: when.iter().map(|(c, r)| (c.map_columns(f), r.map_columns(f))).collect(),
                otherwise: otherwise.as_deref().map(one),
                returns: returns.clone(),
            },
            Expr::InList { expr, list, negated } => {
                Expr::InList { expr: one(expr), list: all(list), negated: *negated }
            }
            Expr::Cast { expr, to } => Expr::Cast { expr: one(expr), to: to.clone() },
        }
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Shown { expr: self, schema: None }.fmt(f)
    }
}

/// An expression with the schema that names its columns.
struct Shown<'a> {
    expr: &'a Expr,
    schema: Option<&'a Schema>,
}

impl Shown<'_> {
    fn child<'b>(&'b self, expr: &'b Expr) -> Shown<'b> {
        Shown { expr, schema: self.schema }
    }

    fn list(&self, f: &mut Formatter<'_>, exprs: &[Expr]) -> fmt::Result {
        for (i, expr) in exprs.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            self.child(expr).fmt(f)?;
        }
        Ok(())
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.expr {
            Expr::Column(i) => match self.schema.and_then(|s| s.fields().get(*i)) {
                Some(field) => f.write_str(field.name()),
                None => write!(f, "${i}"),
            },
            Expr::Literal(literal) => literal.fmt(f),
            Expr::Call { function, args, .. } => {
                write!(f, "{function}(")?;
                self.list(f, args)?;
                f.write_str(")")
            }
            Expr::Binary { op, left, right } => {
                write!(f, "({} {op} {})", self.child(left), self.child(right))
            }
            Expr::Not(expr) => write!(f, "NOT {}", self.child(expr)),
            Expr::IsNull(expr) => write!(f, "({} IS NULL)", self.child(expr)),
            Expr::Case { when, otherwise, .. } => {
                f.write_str("CASE")?;
                for (condition, result) in when {
                    write!(f, " WHEN {} THEN {}", self.child(condition), self.child(result))?;
                }
                if let Some(expr) = otherwise {
                    write!(f, " ELSE {}", self.child(expr))?;
                }
                f.write_str(" END")
            }
            Expr::InList { expr, list, negated } => {
                write!(f, "({} {}IN (", self.child(expr), if *negated { "NOT " } else { "" })?;
                self.list(f, list)?;
                f.write_str("))")
            }
            Expr::Cast { expr, .. } => self.child(expr).fmt(f),
        }
    }
}

impl Display for BinaryOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BinaryOp::Eq => "=",
            BinaryOp::NotEq => "<>",
            BinaryOp::Lt => "<",
            BinaryOp::LtEq => "<=",
            BinaryOp::Gt => ">",
            BinaryOp::GtEq => ">=",
            BinaryOp::And => "AND",
            BinaryOp::Or => "OR",
            BinaryOp::IsDistinctFrom => "IS DISTINCT FROM",
            BinaryOp::IsNotDistinctFrom => "IS NOT DISTINCT FROM",
        })
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let array = self.to_scalar().ok().and_then(|s| s.to_array_of_size(1).ok());
        let text = array.as_ref().map_or_else(|| "?".into(), |array| value_text(array, 0));
        match &self.data_type {
            DataType::Utf8View | DataType::Utf8 if self.bytes.is_some() => write!(f, "'{}'", text.replace('\'', "''")),
            _ => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, FixedSizeBinaryArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::testing::TestFunctions;

    fn batch(rows: &[(i64, i64)]) -> (Batch, SchemaRef) {
        let schema =
            Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)]));
        let a: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
        let b: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)));
        (Batch::inserts(RecordBatch::try_new(schema.clone(), vec![a, b]).unwrap()), schema)
    }

    fn bigint(value: i64) -> Expr {
        Expr::Literal(Literal::from_scalar(&ScalarValue::Int64(Some(value))).unwrap())
    }

    fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
        Expr::Binary { op, left: Box::new(left), right: Box::new(right) }
    }

    fn div() -> Expr {
        Expr::Call {
            function: "int8_div".into(),
            args: vec![Expr::Column(0), Expr::Column(1)],
            returns: DataType::Int64,
        }
    }

    #[test]
    fn good_rows_have_values_and_bad_rows_errors() {
        let (batch, schema) = batch(&[(6, 2), (1, 0), (9, 3), (2, 0), (8, 1)]);
        let evaluator = compile(&div(), &schema, &(Arc::new(TestFunctions) as _)).unwrap();
        assert!(evaluator.evaluate(&batch).is_err());
        let values = evaluator.evaluate_rows(&batch);
        let array: Vec<Option<i64>> = values.array.as_primitive::<Int64Type>().iter().collect();
        assert_eq!(array, [Some(3), None, Some(3), None, Some(8)]);
        let errors = row_errors(&batch, &values.failures);
        assert_eq!(errors.len(), 2);
        assert_eq!((errors[0].sqlstate.as_str(), errors[0].reason.as_str()), ("22012", "division by zero"));
        assert_eq!(errors[1].raw.as_deref(), Some("(2,0)".as_bytes()));
    }

    #[test]
    fn a_branch_that_a_row_does_not_reach_cannot_fail() {
        let (batch, schema) = batch(&[(6, 2), (1, 0), (9, 3), (2, 0), (8, 1)]);
        let nonzero = binary(BinaryOp::NotEq, Expr::Column(1), bigint(0));
        let large = binary(BinaryOp::Gt, div(), bigint(2));
        let zero = binary(BinaryOp::Eq, Expr::Column(1), bigint(0));
        for expr in [
            binary(BinaryOp::And, nonzero.clone(), large.clone()),
            binary(BinaryOp::Or, zero, large.clone()),
            Expr::Case { when: vec![(nonzero, large)], otherwise: None, returns: DataType::Boolean },
        ] {
            let evaluator = compile(&expr, &schema, &(Arc::new(TestFunctions) as _)).unwrap();
            let values = evaluator.evaluate_rows(&batch);
            assert!(values.failures.is_empty(), "{expr}");
            assert_eq!(values.array.len(), 5);
        }
    }

    #[test]
    fn literals_keep_their_value() {
        for scalar in [
            ScalarValue::Int64(Some(-5)),
            ScalarValue::Boolean(Some(true)),
            ScalarValue::Utf8View(Some("it's".into())),
            ScalarValue::Utf8View(None),
            ScalarValue::Float64(Some(1.5)),
        ] {
            assert_eq!(Literal::from_scalar(&scalar).unwrap().to_scalar().unwrap(), scalar);
        }
    }

    #[test]
    fn is_shown_compactly() {
        let (_, schema) = batch(&[]);
        let expr = binary(BinaryOp::And, binary(BinaryOp::Eq, div(), bigint(3)), Expr::Not(Box::new(Expr::Column(1))));
        assert_eq!(expr.to_string(), "((int8_div($0, $1) = 3) AND NOT $1)");
        assert_eq!(expr.display(&schema).to_string(), "((int8_div(a, b) = 3) AND NOT b)");
        let text = Literal::from_scalar(&ScalarValue::Utf8View(Some("it's".into()))).unwrap();
        assert_eq!(text.to_string(), "'it''s'");
    }

    #[test]
    fn a_state_is_found_in_any_wrapping() {
        let error = EvalError::external("22003", "bigint out of range").context("somewhere");
        assert_eq!(sqlstate_of(&error), ("22003", "bigint out of range".into()));
        let error = DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None);
        assert_eq!(sqlstate_of(&error), ("22012", "division by zero".into()));
    }

    #[test]
    fn bytes_intervals_and_arrays_compare() {
        let bytes = |rows: &[&[u8; 2]]| FixedSizeBinaryArray::try_from_iter(rows.iter()).unwrap();
        let interval = |days| arrow::datatypes::IntervalMonthDayNano::new(0, days, 0);
        let intervals =
            |rows: &[i32]| arrow::array::IntervalMonthDayNanoArray::from_iter_values(rows.iter().map(|d| interval(*d)));
        let lists = |rows: &[i64]| {
            let lists = rows.iter().map(|n| Some(vec![Some(*n), None]));
            arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>(lists)
        };
        let texts = |rows: &[&str]| arrow::array::StringViewArray::from_iter_values(rows);
        let pairs: Vec<(ArrayRef, ArrayRef)> = vec![
            (Arc::new(bytes(&[b"aa", b"bb"])), Arc::new(bytes(&[b"aa", b"ba"]))),
            (Arc::new(intervals(&[1, 2])), Arc::new(intervals(&[1, 3]))),
            (Arc::new(lists(&[1, 2])), Arc::new(lists(&[1, 3]))),
            (Arc::new(texts(&["a", "b"])), Arc::new(texts(&["a", "c"]))),
        ];
        for (left, right) in pairs {
            let ty = left.data_type().clone();
            let schema =
                Arc::new(Schema::new(vec![Field::new("l", ty.clone(), true), Field::new("r", ty.clone(), true)]));
            let constant = ScalarValue::try_from_array(&left, 0).unwrap();
            let batch = Batch::inserts(RecordBatch::try_new(schema.clone(), vec![left, right]).unwrap());
            let literal = Expr::Literal(Literal::from_scalar(&constant).unwrap());
            let in_list = Expr::InList { expr: Box::new(Expr::Column(0)), list: vec![literal], negated: false };
            let choice =
                Expr::Case { when: vec![(in_list.clone(), Expr::Column(1))], otherwise: None, returns: ty.clone() };
            for expr in [
                binary(BinaryOp::Eq, Expr::Column(0), Expr::Column(1)),
                binary(BinaryOp::IsNotDistinctFrom, Expr::Column(0), Expr::Column(1)),
                Expr::Not(Box::new(binary(BinaryOp::IsDistinctFrom, Expr::Column(0), Expr::Column(1)))),
                in_list,
                Expr::Not(Box::new(Expr::IsNull(Box::new(choice)))),
            ] {
                let evaluator = compile(&expr, &schema, &(Arc::new(TestFunctions) as _)).unwrap();
                let values = evaluator.evaluate(&batch).unwrap_or_else(|e| panic!("{ty}: {expr}: {e}"));
                let values: Vec<Option<bool>> = values.as_boolean().iter().collect();
                assert_eq!(values, [Some(true), Some(false)], "{ty}: {expr}");
            }
        }
    }
}
