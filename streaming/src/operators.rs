//! The list of operators: one line each. A new operator is a file here, a line here and an `.slt`.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::operator::{Exchange, Operator, Task, TaskContext};

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
    tumble::Tumble,
    aggregate::Aggregate,
    distinct::Distinct,
    hash_join::HashJoin,
    union_all::UnionAll,
    top_n::TopN,
    single_row::SingleRow,
    materialize::Materialize,
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
}
