//! The SQL functions and operators: their signatures, how a call finds one, and their code.
//!
//! One family per file. An entry is a line of a table: SQL name, symbol (what plans call it, unique per overload), the
//! types and a closure over plain values:
//!
//! ```text
//! "+" int4pl (Int4, Int4) -> Int4 = |a, b| a.checked_add(b).ok_or_else(integer_range);
//! ```
//!
//! Operators are entries whose name is the operator. [`resolve`] and [`resolve_operator`] follow chapter 10 of Postgres'
//! documentation. A function that depends on the time zone takes it as a last argument of type text that SQL does not
//! see ([`Function::zoned`]), so that a stored plan gives the same answer in every session.

pub mod aggregate;
mod arithmetic;
mod array;
pub mod backends;
pub mod cast;
mod comparison;
mod cube_root;
mod datetime;
pub mod epoch_time;
mod format;
mod json;
mod math;
pub(crate) mod more_than_one_row;
mod pattern;
mod resolve;
mod rows;
pub mod series;
pub mod signature;
pub(crate) mod sleep;
mod system;
mod table;
mod test_panic;
mod text;
pub mod window;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use parking_lot::RwLock;
use storage::SqlType;

pub use self::cast::{CastStep, cast, typmod_cast};
pub use self::comparison::{Comparison, array_order, key, resolve_comparison};
pub use self::resolve::{Resolved, common_type, resolve, resolve_operator};
use self::rows::{Args, Run};

/// A parameter of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// A type.
    Type(SqlType),
    /// `anyelement`: one type, the same for all of them and the element of `anyarray`.
    AnyElement,
    /// `anynonarray`: any type but an array, each its own.
    AnyNonArray,
    /// `anyarray`
    AnyArray,
    /// `"any"`: every type, each its own.
    Any,
}

/// The code of a signature.
#[derive(Clone)]
enum Body {
    /// For the types of the signature.
    Fixed(Run),
    /// Made for the types of a call.
    Generic(fn(&[SqlType]) -> Run),
    /// Not a plain computation: it brings its own implementation.
    Own(fn() -> Arc<ScalarUDF>),
}

/// A row of the tables: a signature as Postgres declares it, and its code.
#[derive(Clone)]
pub struct Definition {
    /// The SQL name, or the operator.
    pub name: &'static str,
    /// What plans call it, with the types in brackets behind it if it is polymorphic.
    pub symbol: &'static str,
    /// Its parameters.
    pub params: Vec<Param>,
    /// Whether the last parameter may be repeated.
    pub variadic: bool,
    /// Its result.
    pub returns: Param,
    /// Whether a NULL argument makes the result NULL.
    pub strict: bool,
    /// Immutable if the same arguments always give the same result.
    pub volatility: Volatility,
    /// Whether it takes the session's time zone as a hidden last argument.
    pub zoned: bool,
    body: Body,
}

impl Definition {
    /// Takes the time zone as its last parameter, which the closure sees and SQL does not.
    fn zoned(mut self) -> Definition {
        self.params.pop();
        self.zoned = true;
        self
    }

    /// Takes the time zone behind its arguments.
    fn in_zone(mut self) -> Definition {
        self.zoned = true;
        self
    }

    fn volatile(mut self) -> Definition {
        self.volatility = Volatility::Volatile;
        self
    }

    fn stable(mut self) -> Definition {
        self.volatility = Volatility::Stable;
        self
    }
}

/// A function of concrete types, as a call uses it.
#[derive(Clone, Debug)]
pub struct Function {
    /// The SQL name, or the operator.
    pub name: &'static str,
    /// The types of its arguments, one per argument of the call.
    pub args: Vec<SqlType>,
    /// The type of its result.
    pub returns: SqlType,
    /// Whether a NULL argument makes the result NULL.
    pub strict: bool,
    /// How constant its result is.
    pub volatility: Volatility,
    /// Whether the call adds the session's time zone (a text constant, see [`crate::types::datetime::Zone::parse`]) as
    /// the last argument.
    pub zoned: bool,
    /// What plans call it.
    pub symbol: String,
    /// What runs it.
    pub implementation: Arc<ScalarUDF>,
}

/// Makes the [`Definition`]s of a family from its table.
macro_rules! functions {
    ($($name:literal $symbol:ident ($($arg:ty),*) -> $returns:ty = $f:expr;)*) => {
        vec![$(
            $crate::functions::fixed(
                $name,
                stringify!($symbol),
                vec![$(<$arg as $crate::functions::rows::Input>::sql()),*],
                <$returns as $crate::functions::rows::Output>::sql(),
                $crate::functions::functions!(@run ($($arg),*) $returns, $f),
            )
        ),*]
    };
    (@run () $r:ty, $f:expr) => { $crate::functions::rows::nullary::<$r>($f) };
    (@run ($a:ty) $r:ty, $f:expr) => { $crate::functions::rows::unary::<$a, $r>($f) };
    (@run ($a:ty, $b:ty) $r:ty, $f:expr) => { $crate::functions::rows::binary::<$a, $b, $r>($f) };
    (@run ($a:ty, $b:ty, $c:ty) $r:ty, $f:expr) => { $crate::functions::rows::ternary::<$a, $b, $c, $r>($f) };
    (@run ($a:ty, $b:ty, $c:ty, $d:ty) $r:ty, $f:expr) => {
        $crate::functions::rows::quaternary::<$a, $b, $c, $d, $r>($f)
    };
    (@run ($a:ty, $b:ty, $c:ty, $d:ty, $e:ty) $r:ty, $f:expr) => {
        $crate::functions::rows::quinary::<$a, $b, $c, $d, $e, $r>($f)
    };
    (@run ($a:ty, $b:ty, $c:ty, $d:ty, $e:ty, $g:ty) $r:ty, $f:expr) => {
        $crate::functions::rows::senary::<$a, $b, $c, $d, $e, $g, $r>($f)
    };
    (@run ($a:ty, $b:ty, $c:ty, $d:ty, $e:ty, $g:ty, $h:ty) $r:ty, $f:expr) => {
        $crate::functions::rows::septenary::<$a, $b, $c, $d, $e, $g, $h, $r>($f)
    };
}
use functions;

/// A strict, immutable function of these types.
fn fixed(name: &'static str, symbol: &'static str, args: Vec<SqlType>, returns: SqlType, run: Run) -> Definition {
    Definition {
        name,
        symbol,
        params: args.into_iter().map(Param::Type).collect(),
        variadic: false,
        returns: Param::Type(returns),
        strict: true,
        volatility: Volatility::Immutable,
        zoned: false,
        body: Body::Fixed(run),
    }
}

/// A function whose code depends on the types of the call. It sees NULLs.
fn generic(
    name: &'static str,
    symbol: &'static str,
    params: Vec<Param>,
    returns: Param,
    make: fn(&[SqlType]) -> Run,
) -> Definition {
    Definition {
        name,
        symbol,
        params,
        variadic: false,
        returns,
        strict: false,
        volatility: Volatility::Immutable,
        zoned: false,
        body: Body::Generic(make),
    }
}

/// A [`ScalarUDF`] of ours: known to plans by its symbol, typed completely before it is made.
struct Native {
    symbol: String,
    /// The types of the arguments as far as the tables say them; the last is that of all that follow.
    args: Vec<Option<DataType>>,
    returns: DataType,
    strict: bool,
    signature: Signature,
    run: Run,
}

impl Native {
    /// A rule asks what an expression is without the rows of one side, and gives NULLs of no type in their place.
    fn typed(&self, array: ArrayRef, at: usize) -> ArrayRef {
        match self.args.get(at).or(self.args.last()) {
            Some(Some(ty)) if *array.data_type() == DataType::Null => new_null_array(ty, array.len()),
            _ => array,
        }
    }
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

impl ScalarUDFImpl for Native {
    fn name(&self) -> &str {
        &self.symbol
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        // The binder has cast every argument.
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.returns.clone())
    }

    fn is_strict(&self) -> bool {
        self.strict
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let volatile = self.signature.volatility == Volatility::Volatile;
        let constant: Vec<bool> = args.args.iter().map(|arg| matches!(arg, ColumnarValue::Scalar(_))).collect();
        let single = constant.iter().all(|c| *c) && !volatile;
        let arrays = args.args.into_iter().enumerate().map(|(at, arg)| Ok(self.typed(arg.into_array(1)?, at)));
        let arrays: Result<Vec<ArrayRef>, DataFusionError> = arrays.collect();
        let rows = if single { 1 } else { args.number_rows };
        let result = (self.run)(&Args { arrays: arrays?, constant, rows })?;
        if single {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn udf(
    symbol: String,
    args: Vec<Option<DataType>>,
    returns: DataType,
    strict: bool,
    volatility: Volatility,
    run: Run,
) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(volatility);
    Arc::new(ScalarUDF::new_from_impl(Native { symbol, args, returns, strict, signature, run }))
}

/// The tables, indexed.
struct Library {
    definitions: Vec<Definition>,
    /// What a family is called, and where its rows are; without a name it is what plans use and people do not write.
    families: Vec<(&'static str, Range<usize>)>,
    by_name: HashMap<&'static str, Vec<usize>>,
    by_symbol: HashMap<&'static str, usize>,
    /// The functions made so far.
    made: RwLock<HashMap<String, Arc<ScalarUDF>>>,
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut definitions: Vec<Definition> = Vec::new();
        let mut families = Vec::new();
        for (title, functions) in [
            ("Arithmetic", arithmetic::functions()),
            ("Mathematics", math::functions()),
            ("", comparison::functions()),
            ("", cast::functions()),
            ("Text and bytes", text::functions()),
            ("Patterns", pattern::functions()),
            ("Dates and times", datetime::functions()),
            ("Formatting", format::functions()),
            ("JSON", json::functions()),
            ("Arrays", array::functions()),
            ("", table::functions()),
            ("Waiting", sleep::functions()),
            ("Session and system", [system::functions(), backends::functions()].concat()),
            ("For tests of failures", test_panic::functions()),
        ] {
            families.push((title, definitions.len()..definitions.len() + functions.len()));
            definitions.extend(functions);
        }
        let mut by_name: HashMap<&'static str, Vec<usize>> = HashMap::new();
        let mut by_symbol = HashMap::new();
        for (i, definition) in definitions.iter().enumerate() {
            by_name.entry(definition.name).or_default().push(i);
            by_symbol.insert(definition.symbol, i);
        }
        Library { definitions, families, by_name, by_symbol, made: RwLock::default() }
    })
}

/// The overloads of a function.
pub fn candidates(name: &str) -> Vec<&'static Definition> {
    let library = library();
    library.by_name.get(name).into_iter().flatten().map(|i| &library.definitions[*i]).collect()
}

/// The overloads of an operator; prefix operators have one parameter. Comparisons are not among them: see
/// [`resolve_comparison`].
pub fn operator_candidates(name: &str) -> Vec<&'static Definition> {
    candidates(name)
}

/// The parameters of a function that can be called by their names, and what stands for one that is left out.
pub fn parameters(function: &str) -> Option<&'static [(&'static str, Option<&'static str>)]> {
    Some(match function {
        "make_interval" => &[
            ("years", Some("0")),
            ("months", Some("0")),
            ("weeks", Some("0")),
            ("days", Some("0")),
            ("hours", Some("0")),
            ("mins", Some("0")),
            ("secs", Some("0")),
        ],
        "make_date" => &[("year", None), ("month", None), ("day", None)],
        "make_time" => &[("hour", None), ("min", None), ("sec", None)],
        "make_timestamp" => {
            &[("year", None), ("month", None), ("mday", None), ("hour", None), ("min", None), ("sec", None)]
        }
        "jsonb_set" => &[("jsonb_in", None), ("path", None), ("replacement", None), ("create_if_missing", None)],
        "jsonb_insert" => &[("jsonb_in", None), ("path", None), ("replacement", None), ("insert_after", None)],
        _ => return None,
    })
}

/// Every row of the tables, for `pg_proc`.
pub fn all() -> &'static [Definition] {
    &library().definitions
}

/// The same by family, for the page that lists them.
pub fn families() -> impl Iterator<Item = (&'static str, &'static [Definition])> {
    let library = library();
    let named = library.families.iter().filter(|(title, _)| !title.is_empty());
    named.map(|(title, rows)| (*title, &library.definitions[rows.clone()]))
}

/// The function that plans call `symbol`: a name of the tables, with types in brackets if it is polymorphic
/// (`array_append[integer[],integer]`), or a cast (`cast[text,integer]`).
pub fn by_symbol(symbol: &str) -> Option<Arc<ScalarUDF>> {
    let library = library();
    if let Some(made) = library.made.read().get(symbol) {
        return Some(made.clone());
    }
    let made = make(library, symbol)?;
    library.made.write().insert(symbol.to_string(), made.clone());
    Some(made)
}

fn make(library: &Library, symbol: &str) -> Option<Arc<ScalarUDF>> {
    if symbol == "more_than_one_row" {
        // Plans put it where a scalar subquery has to have one row.
        return Some(Arc::new(ScalarUDF::new_from_impl(self::more_than_one_row::MoreThanOneRow::new())));
    }
    if let Some(i) = library.by_symbol.get(symbol)
        && let Body::Fixed(run) = &library.definitions[*i].body
        && let Param::Type(returns) = &library.definitions[*i].returns
    {
        let definition = &library.definitions[*i];
        let returns = comparison::key_type(symbol).unwrap_or_else(|| returns.arrow());
        let arrow = |param: &Param| match param {
            Param::Type(ty) => Some(ty.arrow()),
            _ => None,
        };
        let args = definition.params.iter().map(arrow).collect();
        return Some(udf(symbol.into(), args, returns, definition.strict, definition.volatility, run.clone()));
    }
    if let Some(i) = library.by_symbol.get(symbol)
        && let Body::Own(make) = library.definitions[*i].body
    {
        return Some(make());
    }
    let (base, types) = symbol.strip_suffix(']')?.split_once('[')?;
    let types: Option<Vec<SqlType>> = split_types(types).map(|t| crate::types::parse(t).ok().map(|t| t.0)).collect();
    let types = types?;
    if base == "array_key" {
        return array::key(symbol, types.first()?);
    }
    if base == "array_order" {
        return array::order_key(symbol, types.first()?);
    }
    if base == series::SYMBOL {
        return Some(series::series(symbol, types.first()?));
    }
    if base == "cast" {
        let [from, to] = &types[..] else { return None };
        return cast::make(symbol, from, to);
    }
    let definition = &library.definitions[*library.by_symbol.get(base)?];
    let Body::Generic(make) = &definition.body else { return None };
    let returns = returns_of(definition, &types)?;
    let args = types.iter().map(|ty| Some(ty.arrow())).collect();
    Some(udf(symbol.into(), args, returns.arrow(), definition.strict, definition.volatility, make(&types)))
}

/// Types between commas, where `numeric(10,2)` cannot occur: symbols carry no modifiers.
fn split_types(types: &str) -> impl Iterator<Item = &str> {
    types.split(',').map(str::trim).filter(|t| !t.is_empty())
}

/// The type that a definition returns for these argument types.
fn returns_of(definition: &Definition, types: &[SqlType]) -> Option<SqlType> {
    let mut element = None;
    for (i, ty) in types.iter().enumerate() {
        match definition.params.get(i).or(definition.params.last())? {
            Param::AnyElement => element = element.or(Some(ty.clone())),
            Param::AnyArray => match ty {
                SqlType::Array(item) => element = Some(item.as_ref().clone()),
                _ => return None,
            },
            _ => {}
        }
    }
    match &definition.returns {
        Param::Type(ty) => Some(ty.clone()),
        Param::AnyElement => element,
        Param::AnyArray => element.map(|e| SqlType::Array(Box::new(e))),
        Param::Any | Param::AnyNonArray => None,
    }
}

/// The function of a definition for concrete argument types.
fn instantiate(definition: &'static Definition, args: Vec<SqlType>) -> Option<Function> {
    let returns = returns_of(definition, &args)?;
    let symbol = match definition.body {
        Body::Fixed(_) | Body::Own(_) => definition.symbol.to_string(),
        Body::Generic(_) => {
            let names: Vec<String> = args.iter().map(crate::types::name).collect();
            format!("{}[{}]", definition.symbol, names.join(","))
        }
    };
    Some(Function {
        name: definition.name,
        args,
        returns,
        strict: definition.strict,
        volatility: definition.volatility,
        zoned: definition.zoned,
        implementation: by_symbol(&symbol)?,
        symbol,
    })
}

/// The registry as the engine asks it.
pub struct Registry;

/// The registry as plans ask it for what an operator's expressions mean.
pub(crate) fn engine() -> Arc<dyn streaming::expr::Functions> {
    Arc::new(Registry)
}

impl streaming::expr::Functions for Registry {
    fn write_text(&self, values: &dyn arrow::array::Array, row: usize, ty: &storage::SqlType, out: &mut String) {
        crate::types::text::write(values, row, ty, out);
    }

    fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        by_symbol(name)
    }
}

#[cfg(test)]
mod tests;
