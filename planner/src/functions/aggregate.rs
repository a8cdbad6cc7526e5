//! The aggregates: Postgres' signatures, and the engine's accumulators as DataFusion calls them in batch reads.
//!
//! A view and its query run the same accumulators, so that they agree to the last digit.

use std::fmt::{self, Debug, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, RecordBatch, UInt32Array, new_empty_array};
use arrow::compute::{SortColumn, SortOptions, concat, lexsort_to_indices, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use storage::SqlType;
use streaming::aggregates::{self, AggregateCall, AggregateKind};
use streaming::expr::EvalError;

use crate::types::{self, CastContext, cast_context, error, name};

/// An aggregate that a call was resolved to.
#[derive(Clone, Debug)]
pub struct ResolvedAggregate {
    /// The engine's aggregate.
    pub kind: AggregateKind,
    /// The type that each argument must be cast to first.
    pub casts: Vec<SqlType>,
    /// The type of the result.
    pub returns: SqlType,
    /// What runs it in batch; its name is `<aggregate>_<type>`.
    pub implementation: Arc<AggregateUDF>,
}

/// The SQL names of the aggregates.
const NAMES: [(&str, AggregateKind); 10] = [
    ("count", AggregateKind::Count),
    ("sum", AggregateKind::Sum),
    ("avg", AggregateKind::Avg),
    ("min", AggregateKind::Min),
    ("max", AggregateKind::Max),
    ("bool_and", AggregateKind::BoolAnd),
    ("every", AggregateKind::BoolAnd),
    ("bool_or", AggregateKind::BoolOr),
    ("string_agg", AggregateKind::StringAgg),
    ("array_agg", AggregateKind::ArrayAgg),
];

/// Whether a name is that of an aggregate.
pub fn is_aggregate(name: &str) -> bool {
    NAMES.iter().any(|(known, _)| *known == name)
}

/// Every signature as it is written, for the page that lists them.
pub fn signatures() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (function, kind) in NAMES {
        match kind {
            AggregateKind::Count => {
                found.extend(["count(*) → bigint", "count(any) → bigint"].map(|s| (function, s.into())))
            }
            AggregateKind::ArrayAgg => found.push((function, format!("{function}(any) → any[]"))),
            _ => found.extend(overloads(kind).iter().map(|(args, returns)| {
                let args: Vec<String> = args.iter().map(name).collect();
                (function, format!("{function}({}) → {}", args.join(", "), name(returns)))
            })),
        }
    }
    found
}

/// Argument types and result of each overload; `count` and `array_agg` take anything.
fn overloads(kind: AggregateKind) -> Vec<(Vec<SqlType>, SqlType)> {
    use SqlType::*;
    let same = |types: &[SqlType]| types.iter().map(|t| (vec![t.clone()], t.clone())).collect();
    match kind {
        AggregateKind::Sum => vec![
            (vec![SmallInt], BigInt),
            (vec![Int], BigInt),
            (vec![BigInt], Numeric),
            (vec![Real], Real),
            (vec![Double], Double),
            (vec![Numeric], Numeric),
            (vec![Interval], Interval),
        ],
        AggregateKind::Avg => vec![
            (vec![SmallInt], Numeric),
            (vec![Int], Numeric),
            (vec![BigInt], Numeric),
            (vec![Real], Double),
            (vec![Double], Double),
            (vec![Numeric], Numeric),
            (vec![Interval], Interval),
        ],
        AggregateKind::Min | AggregateKind::Max => same(&[
            SmallInt,
            Int,
            BigInt,
            Real,
            Double,
            Numeric,
            Text,
            Char,
            Date,
            Time,
            Timestamp,
            TimestampTz,
            Interval,
            Oid,
        ]),
        AggregateKind::BoolAnd | AggregateKind::BoolOr => same(&[Boolean]),
        AggregateKind::StringAgg => vec![(vec![Text, Text], Text), (vec![Bytea, Bytea], Bytea)],
        AggregateKind::Count | AggregateKind::ArrayAgg => vec![],
    }
}

/// Finds the aggregate of that name for these argument types. `count(*)` has none; the caller passes DataFusion a
/// constant that is not NULL in their place.
pub fn resolve(function: &str, args: &[SqlType]) -> Result<ResolvedAggregate, EvalError> {
    let shown = || format!("{function}({})", args.iter().map(name).collect::<Vec<_>>().join(", "));
    let missing = || error("42883", format!("function {} does not exist", shown()));
    let kind = NAMES.iter().find(|(known, _)| *known == function).map(|(_, kind)| *kind).ok_or_else(missing)?;
    let (casts, returns) = match (kind, args) {
        (AggregateKind::Count, []) => (vec![], SqlType::BigInt),
        (AggregateKind::Count, [SqlType::Unknown]) => (vec![SqlType::Text], SqlType::BigInt),
        (AggregateKind::Count, [arg]) => (vec![arg.clone()], SqlType::BigInt),
        (AggregateKind::ArrayAgg, [SqlType::Array(_)]) => {
            return Err(error("0A000", "array_agg of arrays is not supported"));
        }
        (AggregateKind::ArrayAgg, [arg]) => {
            let arg = if *arg == SqlType::Unknown { SqlType::Text } else { arg.clone() };
            (vec![arg.clone()], SqlType::Array(Box::new(arg)))
        }
        _ => choose(overloads(kind), args).map_err(|ambiguous| match ambiguous {
            true => error("42725", format!("function {} is not unique", shown())),
            false => missing(),
        })?,
    };
    let symbol = match casts.first() {
        Some(arg) => format!("{}_{}", kind.name(), types::typname(arg)),
        None => kind.name().to_string(),
    };
    let returned = returns.arrow();
    let implementation = Arc::new(AggregateUDF::new_from_impl(Native {
        kind,
        symbol,
        returns: returned,
        signature: Signature::user_defined(Volatility::Immutable),
    }));
    Ok(ResolvedAggregate { kind, casts, returns, implementation })
}

/// The overload for these arguments; the error says whether there were several.
fn choose(overloads: Vec<(Vec<SqlType>, SqlType)>, args: &[SqlType]) -> Result<(Vec<SqlType>, SqlType), bool> {
    let implicit = |from: &SqlType, to: &SqlType| cast_context(from, to) == Some(CastContext::Implicit);
    let mut fitting: Vec<_> = overloads
        .into_iter()
        .filter(|(params, _)| params.len() == args.len() && params.iter().zip(args).all(|(p, a)| implicit(a, p)))
        .collect();
    let exact = |params: &[SqlType]| params.iter().zip(args).filter(|(p, a)| p == a).count();
    let best = fitting.iter().map(|(params, _)| exact(params)).max().unwrap_or(0);
    fitting.retain(|(params, _)| exact(params) == best);
    if fitting.len() > 1 {
        // An untyped literal is text where text is taken; else the preferred type of the argument's category.
        let good = |p: &SqlType, a: &SqlType| match a {
            SqlType::Unknown => *p == SqlType::Text,
            a => types::category(p) == types::category(a) && (p == a || types::is_preferred(p)),
        };
        let preferred: Vec<_> =
            fitting.iter().filter(|(params, _)| params.iter().zip(args).all(|(p, a)| good(p, a))).cloned().collect();
        if !preferred.is_empty() {
            fitting = preferred;
        }
    }
    match fitting.len() {
        0 => Err(false),
        1 => Ok(fitting.remove(0)),
        _ => Err(true),
    }
}

/// One of the engine's aggregates for one type of argument.
struct Native {
    kind: AggregateKind,
    symbol: String,
    returns: DataType,
    signature: Signature,
}

impl Debug for Native {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.symbol)
    }
}

impl PartialEq for Native {
    fn eq(&self, other: &Native) -> bool {
        self.symbol == other.symbol
    }
}

impl Eq for Native {}

impl Hash for Native {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.symbol.hash(state);
    }
}

fn failed(error: streaming::Error) -> DataFusionError {
    match error {
        streaming::Error::Invalid { sqlstate, message } => EvalError::external(sqlstate, message),
        streaming::Error::Unsupported(message) => EvalError::external("0A000", message),
        other => DataFusionError::External(Box::new(other)),
    }
}

/// What makes the accumulators of one aggregate of a plan.
#[derive(Clone, Debug)]
struct Recipe {
    call: AggregateCall,
    args: Vec<DataType>,
}

impl Recipe {
    fn new(native: &Native, args: &AccumulatorArgs<'_>) -> Recipe {
        let types: Vec<DataType> = args.expr_fields.iter().map(|f| f.data_type().clone()).collect();
        let call = AggregateCall {
            kind: native.kind,
            args: (0..types.len()).collect(),
            filter: None,
            distinct: args.is_distinct,
            returns: native.returns.clone(),
        };
        Recipe { call, args: types }
    }

    /// Reads retract nothing, so the lighter form will do.
    fn start(&self) -> Result<Box<dyn aggregates::Accumulator>> {
        aggregates::append_only_accumulator(&self.call, &self.args).map_err(failed)
    }
}

impl AggregateUDFImpl for Native {
    fn name(&self) -> &str {
        &self.symbol
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn is_nullable(&self) -> bool {
        self.kind != AggregateKind::Count
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        match self.kind {
            AggregateKind::Count => Ok(ScalarValue::Int64(Some(0))),
            _ => ScalarValue::try_from(data_type),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[state]", args.name), DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let collects = matches!(self.kind, AggregateKind::ArrayAgg | AggregateKind::StringAgg);
        if collects && !args.order_bys.is_empty() {
            if args.is_distinct {
                return Err(EvalError::external(
                    "0A000",
                    format!("{}(DISTINCT ... ORDER BY) is not supported", self.kind.name()),
                ));
            }
            let order = args.order_bys.iter().map(|by| by.options).collect();
            return Ok(Box::new(InOrder {
                kind: self.kind,
                returns: self.returns.clone(),
                order,
                n_args: args.exprs.len(),
                columns: Vec::new(),
            }));
        }
        let recipe = Recipe::new(self, &args);
        Ok(Box::new(Single { state: recipe.start()?, recipe }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        args.order_bys.is_empty()
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups { recipe: Recipe::new(self, &args), states: Vec::new() }))
    }
}

/// The whole input as one group.
struct Single {
    recipe: Recipe,
    state: Box<dyn aggregates::Accumulator>,
}

impl Debug for Single {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.recipe.call)
    }
}

impl Accumulator for Single {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |v| v.len());
        self.state.apply_all(values, rows, None).map_err(failed)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.state.value().map_err(failed)
    }

    fn size(&self) -> usize {
        size_of::<Single>() + self.state.bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.state.state()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = states[0].as_binary::<i32>();
        for state in states.iter().flatten() {
            self.state.restore(state).map_err(failed)?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |v| v.len());
        let input = self.state.prepare(values).map_err(failed)?;
        (0..rows).for_each(|row| self.state.add(&input, row, -1));
        Ok(())
    }
}

/// One accumulator per group.
struct Groups {
    recipe: Recipe,
    states: Vec<Box<dyn aggregates::Accumulator>>,
}

impl Groups {
    fn grow(&mut self, groups: usize) -> Result<()> {
        while self.states.len() < groups {
            self.states.push(self.recipe.start()?);
        }
        Ok(())
    }

    fn take(&mut self, emit: EmitTo) -> Vec<Box<dyn aggregates::Accumulator>> {
        match emit {
            EmitTo::All => std::mem::take(&mut self.states),
            EmitTo::First(n) => self.states.drain(..n).collect(),
        }
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        n_groups: usize,
    ) -> Result<()> {
        self.grow(n_groups)?;
        let Some(first) = self.states.first() else { return Ok(()) };
        let input = first.prepare(values).map_err(failed)?;
        for (row, group) in groups.iter().enumerate() {
            if filter.is_none_or(|f| f.is_valid(row) && f.value(row)) {
                self.states[*group].add(&input, row, 1);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let states = self.take(emit);
        if states.is_empty() {
            return Ok(new_empty_array(&self.recipe.call.returns));
        }
        let values: Result<Vec<ScalarValue>> = states.iter().map(|state| state.value().map_err(failed)).collect();
        ScalarValue::iter_to_array(values?)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let mut out = BinaryBuilder::new();
        for mut state in self.take(emit) {
            out.append_value(state.state());
        }
        Ok(vec![Arc::new(out.finish())])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], n_groups: usize) -> Result<()> {
        self.grow(n_groups)?;
        let states = values[0].as_binary::<i32>();
        for (row, group) in groups.iter().enumerate() {
            if states.is_valid(row) {
                self.states[*group].restore(states.value(row)).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |v| v.len());
        let mut out = BinaryBuilder::new();
        for row in 0..rows {
            let mut state = self.recipe.start()?;
            if filter.is_none_or(|f| f.is_valid(row) && f.value(row)) {
                state.apply(values, row, 1).map_err(failed)?;
            }
            out.append_value(state.state());
        }
        Ok(vec![Arc::new(out.finish())])
    }

    fn size(&self) -> usize {
        size_of::<Groups>() + self.states.iter().map(|state| state.bytes() + 16).sum::<usize>()
    }
}

/// `array_agg` and `string_agg` with ORDER BY: keeps its rows and sorts them. DataFusion passes what to sort by behind
/// the arguments.
#[derive(Debug)]
struct InOrder {
    kind: AggregateKind,
    returns: DataType,
    order: Vec<SortOptions>,
    n_args: usize,
    columns: Vec<Vec<ArrayRef>>,
}

impl InOrder {
    /// All rows so far, each column in one piece.
    fn take(&mut self) -> Result<Vec<ArrayRef>> {
        let columns = std::mem::take(&mut self.columns);
        let join = |parts: &Vec<ArrayRef>| concat(&parts.iter().map(|p| p.as_ref()).collect::<Vec<_>>());
        Ok(columns.iter().map(join).collect::<Result<_, _>>()?)
    }
}

impl Accumulator for InOrder {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.columns.resize(values.len(), Vec::new());
        for (column, array) in self.columns.iter_mut().zip(values) {
            column.push(array.clone());
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let columns = self.take()?;
        let rows = columns.first().map_or(0, |c| c.len());
        if rows == 0 {
            return ScalarValue::try_from(&self.returns);
        }
        let mut by: Vec<SortColumn> = columns[self.n_args..]
            .iter()
            .zip(&self.order)
            .map(|(values, options)| SortColumn { values: values.clone(), options: Some(*options) })
            .collect();
        // Rows that compare equal stay in the order in which they came.
        let arrival: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..rows as u32));
        by.push(SortColumn { values: arrival, options: None });
        let order = lexsort_to_indices(&by, None)?;
        let items = take(&columns[0], &order, None)?;
        if self.kind == AggregateKind::ArrayAgg {
            return Ok(SingleRowListArrayBuilder::new(items).build_list_scalar());
        }
        let (Some(items), Some(delimiters)) = (items.as_string_view_opt(), columns[1].as_string_view_opt()) else {
            return Err(EvalError::external("0A000", "string_agg of bytea with ORDER BY is not supported"));
        };
        let mut text: Option<String> = None;
        for (item, from) in items.iter().zip(order.values()) {
            let Some(item) = item else { continue };
            match &mut text {
                None => text = Some(item.to_string()),
                Some(text) => {
                    if delimiters.is_valid(*from as usize) {
                        text.push_str(delimiters.value(*from as usize));
                    }
                    text.push_str(item);
                }
            }
        }
        Ok(ScalarValue::Utf8View(text))
    }

    fn size(&self) -> usize {
        size_of::<InOrder>() + self.columns.iter().flatten().map(|array| array.get_array_memory_size()).sum::<usize>()
    }

    /// The rows of a part, as an Arrow stream.
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let columns = self.take()?;
        if columns.first().is_none_or(|c| c.is_empty()) {
            return Ok(vec![ScalarValue::Binary(None)]);
        }
        let fields: Vec<Field> =
            columns.iter().enumerate().map(|(i, c)| Field::new(i.to_string(), c.data_type().clone(), true)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
        writer.write(&batch)?;
        Ok(vec![ScalarValue::Binary(Some(writer.into_inner()?))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states[0].as_binary::<i32>().iter().flatten() {
            for batch in StreamReader::try_new(state, None)? {
                self.update_batch(batch?.columns())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_types_of_postgres() {
        use SqlType::*;
        for (function, args, expected) in [
            ("count", vec![], Ok(BigInt)),
            ("sum", vec![Int], Ok(BigInt)),
            ("sum", vec![BigInt], Ok(Numeric)),
            ("sum", vec![Real], Ok(Real)),
            ("avg", vec![Int], Ok(Numeric)),
            ("avg", vec![Real], Ok(Double)),
            ("min", vec![Varchar], Ok(Text)),
            ("max", vec![TimestampTz], Ok(TimestampTz)),
            ("max", vec![Boolean], Err("function max(boolean) does not exist")),
            ("max", vec![Uuid], Err("function max(uuid) does not exist")),
            ("sum", vec![Text], Err("function sum(text) does not exist")),
            ("sum", vec![Unknown], Err("function sum(unknown) is not unique")),
            ("string_agg", vec![Varchar, Unknown], Ok(Text)),
            ("array_agg", vec![Int], Ok(Array(Box::new(Int)))),
            ("median", vec![Int], Err("function median(integer) does not exist")),
        ] {
            let answer = resolve(function, &args).map(|r| r.returns).map_err(|e| e.message);
            assert_eq!(answer, expected.map_err(str::to_string), "{function}{args:?}");
        }
    }
}
