//! EMIT: when the rows of a view leave.

use std::time::Duration;

use streaming::operators::{AnyOperator, WindowClose};

use super::ViewPlan;
use crate::error::{Error, Result};
use crate::statement::Emit;

impl ViewPlan {
    /// The view whose rows leave as `emit` says.
    ///
    /// # Errors
    /// EMIT ON WINDOW CLOSE of a query that no watermark passes through.
    pub fn emitting(mut self, emit: Emit) -> Result<ViewPlan> {
        let every: Option<Duration> = match emit {
            Emit::Immediately => return Ok(self),
            Emit::OnWindowClose => None,
            Emit::Every(every) => Some(every),
        };
        let column = self.window();
        if column.is_none() && every.is_none() {
            return Err(Error::unsupported(
                "EMIT ON WINDOW CLOSE needs a watermark on a column of the result or of its key",
            )
            .with_hint(
                "Declare WATERMARK FOR ... AS ... on the source or table, and group by window_start or window_end of \
                     TUMBLE or HOP over it, or by the column itself.",
            ));
        }
        let mark = column.and_then(|column| self.watermarks[column]);
        let updates = mark.is_some_and(|mark| mark.lateness);
        let schema = storage::types::arrow_schema(&self.columns);
        let plan = &mut self.job.plan;
        let root = plan.nodes.pop().filter(|root| matches!(root.operator, AnyOperator::Materialize(_)));
        let root = root.ok_or_else(|| Error::new("XX000", "a view's plan does not end in what keeps its rows"))?;
        let closing = WindowClose { column, every, updates, key: self.stream_key.clone(), schema };
        let closing = plan.add(closing, root.inputs);
        plan.add(root.operator, vec![closing]);
        // Other columns of a row that waited may lie far behind their watermarks.
        for (c, mark) in self.watermarks.iter_mut().enumerate() {
            *mark = mark.filter(|_| Some(c) == column && every.is_none());
            if let Some(mark) = mark {
                mark.retracts &= updates;
            }
        }
        self.append_only = every.is_none() && !updates;
        Ok(self)
    }

    /// The column by which rows leave: the end of a window before its beginning, since CUMULATE has many ends for one.
    fn window(&self) -> Option<usize> {
        let marked = || (0..self.watermarks.len()).filter(|c| self.watermarks[*c].is_some());
        marked().find(|c| self.columns[*c].name == "window_end").or_else(|| marked().last())
    }
}
