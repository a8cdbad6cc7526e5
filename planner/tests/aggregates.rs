//! The engine's aggregates as DataFusion runs them in a read: grouped, DISTINCT, FILTER, in one part and in many.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, StringViewArray};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{ExprFunctionExt, col, lit};
use datafusion::prelude::{Expr, SessionConfig, SessionContext};
use planner::functions::aggregate::resolve;
use planner::types::text;
use storage::SqlType;

fn rows() -> RecordBatch {
    let g: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b", "a", "a", "b"]));
    let x: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), Some(5), Some(2), None, Some(5)]));
    let s: ArrayRef = Arc::new(StringViewArray::from(vec![Some("z"), Some("y"), None, Some("x"), Some("w")]));
    let f: ArrayRef = Arc::new(BooleanArray::from(vec![true, true, false, true, false]));
    RecordBatch::try_from_iter_with_nullable([("g", g, true), ("x", x, true), ("s", s, true), ("f", f, true)]).unwrap()
}

/// The text of each result, group by group.
async fn answers(function: &str, args: &[(&str, SqlType)], partitions: usize, form: fn(Expr) -> Expr) -> Vec<String> {
    let types: Vec<SqlType> = args.iter().map(|(_, ty)| ty.clone()).collect();
    let resolved = resolve(function, &types).unwrap();
    let args: Vec<Expr> = match args {
        [] => vec![lit(1i64)],
        args => args
            .iter()
            .map(|(name, _)| {
                if *name == "," { lit(datafusion::common::ScalarValue::Utf8View(Some(",".into()))) } else { col(*name) }
            })
            .collect(),
    };
    let call = form(resolved.implementation.call(args)).alias("r");
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
    // One row per partition, so that states are merged.
    let parts = (0..5).map(|row| vec![rows().slice(row, 1)]).collect();
    let parts = if partitions > 1 { parts } else { vec![vec![rows()]] };
    let frame = context.read_table(Arc::new(MemTable::try_new(rows().schema(), parts).unwrap())).unwrap();
    let frame = frame.aggregate(vec![col("g")], vec![call]).unwrap().sort(vec![col("g").sort(true, false)]).unwrap();
    let mut shown = Vec::new();
    for batch in frame.collect().await.unwrap() {
        for row in 0..batch.num_rows() {
            let mut out = String::new();
            text::write(batch.column(1), row, &resolved.returns, &mut out);
            shown.push(out);
        }
    }
    shown
}

#[tokio::test]
async fn groups_have_the_values_of_postgres() {
    use SqlType::{Int, Text};
    let x = [("x", Int)];
    for partitions in [1, 3] {
        for (function, args, expected) in [
            ("count", &[][..], ["3", "2"]),
            ("count", &x, ["2", "2"]),
            ("sum", &x, ["3", "10"]),
            ("avg", &x, ["1.5000000000000000", "5.0000000000000000"]),
            ("min", &x, ["1", "5"]),
            ("max", &[("s", Text)], ["z", "y"]),
        ] {
            assert_eq!(answers(function, args, partitions, |e| e).await, expected, "{function} {partitions}");
        }
        assert_eq!(answers("sum", &x, partitions, |e| e.distinct().build().unwrap()).await, ["3", "5"]);
        assert_eq!(answers("count", &x, partitions, |e| e.distinct().build().unwrap()).await, ["2", "1"]);
        assert_eq!(answers("sum", &x, partitions, |e| e.filter(col("f")).build().unwrap()).await, ["1", "5"]);
    }
}
