//! The list of operators: one line each. A new operator is a file here, a line here and an `.slt`.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::error::Result;
use crate::operator::{Exchange, Operator, Task, TaskContext, WatermarkContext};
use crate::watermark::Watermarks;

macro_rules! operators {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(pub mod $module; pub use $module::$name;)*

        /// Any operator, as a plan holds it.
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum AnyOperator { $($name($name)),* }

        $(impl From<$name> for AnyOperator { fn from(operator: $name) -> Self { AnyOperator::$name(operator) } })*

        impl AnyOperator {
            /// The operator behind the name.
            pub fn operator(&self) -> &dyn Operator { match self { $(AnyOperator::$name(o) => o),* } }

            /// Its name in EXPLAIN.
            pub fn name(&self) -> &'static str { match self { $(AnyOperator::$name(_) => stringify!($name)),* } }
        }
    };
}

operators! {
    source::Source,
    table_source::TableSource,
    tap_reader::TapReader,
    values::Values,
    filter::Filter,
    project::Project,
    time_window::TimeWindow,
    unnest::Unnest,
    aggregate::Aggregate,
    local_aggregate::LocalAggregate,
    distinct::Distinct,
    hash_join::HashJoin,
    temporal_filter::TemporalFilter,
    temporal_join::TemporalJoin,
    lookup_join::LookupJoin,
    asof_join::AsofJoin,
    versioned_join::VersionedJoin,
    set_operation::SetOperation,
    recursive::Recursive,
    union_all::UnionAll,
    top_n::TopN,
    window::Window,
    single_row::SingleRow,
    window_close::WindowClose,
    ttl::Ttl,
    materialize::Materialize,
    sink::Sink,
}

impl Operator for AnyOperator {
    fn schema(&self) -> SchemaRef {
        self.operator().schema()
    }
    fn inputs(&self) -> Vec<Exchange> {
        self.operator().inputs()
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        self.operator().start(ctx)
    }
    fn describe(&self) -> String {
        self.operator().describe()
    }
    fn state(&self) -> Option<String> {
        self.operator().state()
    }
    fn watermarks(&self, inputs: &[Watermarks], ctx: &WatermarkContext) -> Watermarks {
        self.operator().watermarks(inputs, ctx)
    }
    fn expires_by(&self) -> Vec<(usize, usize)> {
        self.operator().expires_by()
    }
    fn waits_for_watermark(&self) -> bool {
        self.operator().waits_for_watermark()
    }
    fn emits_every(&self) -> Option<std::time::Duration> {
        self.operator().emits_every()
    }
    fn follows_the_clock(&self) -> bool {
        self.operator().follows_the_clock()
    }
}

/// The same rows under the names that an operator gives to its columns.
pub(crate) fn with_schema(batch: &Batch, schema: &SchemaRef) -> Result<Batch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let data = RecordBatch::try_new_with_options(schema.clone(), batch.data().columns().to_vec(), &options)?;
    Ok(batch.with_data(data))
}
