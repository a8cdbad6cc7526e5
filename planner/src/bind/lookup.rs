//! Names of the catalog by their oids and the other way round, for reads: a map that the plan carries. A view keeps its
//! plan, so there a CASE does the same.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The name behind `oid`, or `otherwise`.
pub(super) fn name_of(oid: Expr, names: Vec<(u32, String)>, otherwise: Expr) -> Expr {
    let names = names.into_iter().rev().map(|(oid, name)| (i64::from(oid), name)).collect();
    call(Lookup::new(Map::Names(names)), vec![oid, otherwise])
}

/// The oid behind `name`, or NULL. Of equal names the first counts.
pub(super) fn oid_of(name: Expr, oids: Vec<(String, u32)>) -> Expr {
    let oids = oids.into_iter().rev().map(|(name, oid)| (name, i64::from(oid))).collect();
    call(Lookup::new(Map::Oids(oids)), vec![name])
}

fn call(lookup: Lookup, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(lookup)), args))
}

#[derive(Debug)]
enum Map {
    Names(HashMap<i64, String>),
    Oids(HashMap<String, i64>),
}

/// Equal only to itself: the catalog may have changed in between.
#[derive(Clone, Debug)]
struct Lookup {
    map: Arc<Map>,
    signature: Signature,
}

impl Lookup {
    fn new(map: Map) -> Lookup {
        let args = match &map {
            Map::Names(_) => vec![DataType::Int64, DataType::Utf8View],
            Map::Oids(_) => vec![DataType::Utf8View],
        };
        Lookup { map: Arc::new(map), signature: Signature::exact(args, Volatility::Immutable) }
    }
}

impl PartialEq for Lookup {
    fn eq(&self, other: &Lookup) -> bool {
        Arc::ptr_eq(&self.map, &other.map)
    }
}

impl Eq for Lookup {}

impl Hash for Lookup {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.map).hash(state);
    }
}

impl ScalarUDFImpl for Lookup {
    fn name(&self) -> &str {
        match *self.map {
            Map::Names(_) => "catalog_name",
            Map::Oids(_) => "catalog_oid",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match *self.map {
            Map::Names(_) => DataType::Utf8View,
            Map::Oids(_) => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array(match &*self.map {
            Map::Names(names) => {
                let (oids, otherwise) = (arrays[0].as_primitive::<Int64Type>(), arrays[1].as_string_view());
                let name = |row: usize| {
                    let known = oids.is_valid(row).then(|| names.get(&oids.value(row))).flatten();
                    known.map(String::as_str).or_else(|| otherwise.is_valid(row).then(|| otherwise.value(row)))
                };
                Arc::new((0..rows).map(name).collect::<StringViewArray>())
            }
            Map::Oids(oids) => {
                let names = arrays[0].as_string_view().iter();
                Arc::new(names.map(|name| oids.get(name?).copied()).collect::<Int64Array>())
            }
        }))
    }
}
