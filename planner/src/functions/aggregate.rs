//! The aggregates: Postgres' signatures, and the engine's accumulators as DataFusion calls them in batch reads.
//!
//! A view and its query run the same accumulators, so that they agree to the last digit.

use std::fmt::{self, Debug, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, new_empty_array};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use storage::SqlType;
use storage::keys::SortOption;
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

/// The SQL names of the aggregates that are not the engine's own names.
const OTHER_NAMES: [(&str, AggregateKind); 5] = [
    ("every", AggregateKind::BoolAnd),
    ("variance", AggregateKind::VarSamp),
    ("stddev", AggregateKind::StddevSamp),
    ("arg_min", AggregateKind::MinBy),
    ("arg_max", AggregateKind::MaxBy),
];

/// The aggregate of a SQL name.
pub fn kind(name: &str) -> Option<AggregateKind> {
    let other = OTHER_NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
    other.or_else(|| AggregateKind::ALL.iter().copied().find(|kind| kind.name() == name))
}

/// Whether a name is that of an aggregate.
pub fn is_aggregate(name: &str) -> bool {
    kind(name).is_some()
}

/// Every signature as it is written, for the page that lists them.
pub fn signatures() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let all = AggregateKind::ALL.iter().map(|kind| (kind.name(), *kind)).chain(OTHER_NAMES);
    for (function, kind) in all {
        let given: &[&str] = match kind {
            AggregateKind::Count => &["count(*) → bigint", "count(any) → bigint"],
            AggregateKind::ArrayAgg => &["(any) → any[]"],
            AggregateKind::JsonbAgg => &["(any) → jsonb"],
            AggregateKind::JsonbObjectAgg => &["(any, any) → jsonb"],
            AggregateKind::FirstValue | AggregateKind::LastValue | AggregateKind::AnyValue => &["(any) → any"],
            AggregateKind::MinBy | AggregateKind::MaxBy => &["(any, any) → any"],
            AggregateKind::ApproxCountDistinct => &["(any) → bigint"],
            AggregateKind::Mode => &["() WITHIN GROUP (ORDER BY any) → any"],
            AggregateKind::PercentileDisc => &[
                "(double precision) WITHIN GROUP (ORDER BY any) → any",
                "(double precision[]) WITHIN GROUP (ORDER BY any) → any[]",
            ],
            _ => &[],
        };
        found.extend(given.iter().map(|text| match text.starts_with('(') {
            true => (function, format!("{function}{text}")),
            false => (function, text.to_string()),
        }));
        found.extend(overloads(kind).iter().map(|(args, returns)| {
            let sorted = if is_ordered_set(kind) { 1 } else { 0 };
            let of = |args: &[SqlType]| args.iter().map(name).collect::<Vec<_>>().join(", ");
            let by = match sorted {
                0 => String::new(),
                _ => format!(" WITHIN GROUP (ORDER BY {})", of(&args[..1])),
            };
            (function, format!("{function}({}){by} → {}", of(&args[sorted..]), name(returns)))
        }));
    }
    found
}

/// Whether an aggregate is called with WITHIN GROUP.
pub fn is_ordered_set(kind: AggregateKind) -> bool {
    use AggregateKind::*;
    matches!(kind, PercentileCont | PercentileDisc | Mode | ApproxPercentile)
}

/// Whether ORDER BY inside the call decides anything.
pub fn is_ordered(kind: AggregateKind) -> bool {
    use AggregateKind::*;
    matches!(kind, StringAgg | ArrayAgg | JsonbAgg | JsonbObjectAgg | FirstValue | LastValue)
}

/// Argument types and result of each overload; those of any type are in [`resolve`].
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
        AggregateKind::BitAnd | AggregateKind::BitOr | AggregateKind::BitXor => same(&[SmallInt, Int, BigInt]),
        AggregateKind::VarPop | AggregateKind::VarSamp | AggregateKind::StddevPop | AggregateKind::StddevSamp => {
            vec![
                (vec![SmallInt], Numeric),
                (vec![Int], Numeric),
                (vec![BigInt], Numeric),
                (vec![Real], Double),
                (vec![Double], Double),
                (vec![Numeric], Numeric),
            ]
        }
        AggregateKind::RegrCount => vec![(vec![Double, Double], BigInt)],
        AggregateKind::Corr
        | AggregateKind::CovarPop
        | AggregateKind::CovarSamp
        | AggregateKind::RegrAvgx
        | AggregateKind::RegrAvgy
        | AggregateKind::RegrIntercept
        | AggregateKind::RegrR2
        | AggregateKind::RegrSlope
        | AggregateKind::RegrSxx
        | AggregateKind::RegrSxy
        | AggregateKind::RegrSyy => vec![(vec![Double, Double], Double)],
        // The value that WITHIN GROUP sorts stands before the fraction.
        AggregateKind::PercentileCont => [Double, Interval]
            .into_iter()
            .flat_map(|value| {
                let many = || Array(Box::new(Double));
                let of_many = Array(Box::new(value.clone()));
                [(vec![value.clone(), Double], value.clone()), (vec![value, many()], of_many)]
            })
            .collect(),
        AggregateKind::ApproxPercentile => {
            vec![(vec![Double, Double], Double), (vec![Double, Double, Double], Double)]
        }
        _ => vec![],
    }
}

/// Finds the aggregate of that name for these argument types. `count(*)` has none; the caller passes DataFusion a
/// constant that is not NULL in their place.
pub fn resolve(function: &str, args: &[SqlType]) -> Result<ResolvedAggregate, EvalError> {
    let shown = || format!("{function}({})", args.iter().map(name).collect::<Vec<_>>().join(", "));
    let missing = || error("42883", format!("function {} does not exist", shown()));
    let kind = kind(function).ok_or_else(missing)?;
    let known = |ty: &SqlType| if *ty == SqlType::Unknown { SqlType::Text } else { ty.clone() };
    let (casts, returns) = match (kind, args) {
        (AggregateKind::Count, []) => (vec![], SqlType::BigInt),
        (AggregateKind::Count, [SqlType::Unknown]) => (vec![SqlType::Text], SqlType::BigInt),
        (AggregateKind::Count, [arg]) => (vec![arg.clone()], SqlType::BigInt),
        (AggregateKind::ArrayAgg, [SqlType::Array(_)]) => {
            return Err(error("0A000", "array_agg of arrays is not supported"));
        }
        (AggregateKind::ArrayAgg, [arg]) => {
            let arg = known(arg);
            (vec![arg.clone()], SqlType::Array(Box::new(arg)))
        }
        (
            AggregateKind::FirstValue | AggregateKind::LastValue | AggregateKind::AnyValue | AggregateKind::Mode,
            [arg],
        ) => (vec![known(arg)], known(arg)),
        (AggregateKind::MinBy | AggregateKind::MaxBy, [value, by]) => (vec![known(value), known(by)], known(value)),
        (AggregateKind::ApproxCountDistinct, [arg]) => (vec![known(arg)], SqlType::BigInt),
        (AggregateKind::JsonbAgg, [arg]) => (vec![known(arg)], SqlType::Jsonb),
        (AggregateKind::JsonbObjectAgg, [name, value]) => (vec![known(name), known(value)], SqlType::Jsonb),
        (AggregateKind::PercentileDisc, [value, SqlType::Array(_)]) => {
            let doubles = SqlType::Array(Box::new(SqlType::Double));
            (vec![known(value), doubles], SqlType::Array(Box::new(known(value))))
        }
        (AggregateKind::PercentileDisc, [value, fraction])
            if cast_context(fraction, &SqlType::Double) == Some(CastContext::Implicit) =>
        {
            (vec![known(value), SqlType::Double], known(value))
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
    let implementation = Arc::new(AggregateUDF::new_from_impl(Native {
        kind,
        symbol,
        order: vec![],
        returns: returns.arrow(),
        signature: Signature::user_defined(Volatility::Immutable),
    }));
    Ok(ResolvedAggregate { kind, casts, returns, implementation })
}

impl ResolvedAggregate {
    /// The same with ORDER BY inside: what is sorted by stands behind the other arguments.
    pub fn ordered(&self, order: Vec<SortOption>) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::new_from_impl(Native {
            kind: self.kind,
            symbol: self.implementation.name().to_string(),
            order,
            returns: self.returns.arrow(),
            signature: Signature::user_defined(Volatility::Immutable),
        }))
    }
}

/// The engine's aggregate behind a function that [`resolve`] made, and how its last arguments are sorted.
pub fn native(function: &AggregateUDF) -> Option<(AggregateKind, &[SortOption])> {
    let native = function.inner().downcast_ref::<Native>()?;
    Some((native.kind, &native.order))
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
    /// How each of the last arguments is sorted.
    order: Vec<SortOption>,
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
        (&self.symbol, &self.order, &self.returns) == (&other.symbol, &other.order, &other.returns)
    }
}

impl Eq for Native {}

impl Hash for Native {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.symbol, &self.order, &self.returns).hash(state);
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
            order: native.order.clone(),
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
        !self.kind.is_count()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        match self.kind.is_count() {
            true => Ok(ScalarValue::Int64(Some(0))),
            false => ScalarValue::try_from(data_type),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[state]", args.name), DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
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
            ("stddev", vec![Int], Ok(Numeric)),
            ("corr", vec![Int, Real], Ok(Double)),
            ("bit_or", vec![SmallInt], Ok(SmallInt)),
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
