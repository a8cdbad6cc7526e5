//! The simple protocol: a string of statements, each with its answer, as one transaction unless they say otherwise.

use futures::StreamExt;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse};

use crate::error::Result;
use crate::fields::Format;
use crate::outcome::{Outcome, Parameters};
use crate::pgwire::connection::{Connection, attend, contain};
use crate::pgwire::copy;
use crate::pgwire::types::{put_row, row_description};
use crate::statements;

impl Connection {
    /// Answers a Query message.
    pub(super) async fn simple_query(&mut self, text: &str) -> Result<()> {
        self.cancel.begin();
        let done = contain(self.simple_statements(text)).await;
        self.cancel.end();
        if let Err(error) = done {
            let fatal = error.is_fatal();
            self.fail(&error);
            if fatal {
                self.wire.flush().await?;
                return Err(error);
            }
        }
        self.session.idle();
        self.ready_for_query().await
    }

    async fn simple_statements(&mut self, text: &str) -> Result<()> {
        let parsed = planner::parse(text)?;
        if parsed.is_empty() {
            self.wire.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
            return Ok(());
        }
        let n = parsed.len();
        for (i, parsed) in parsed.into_iter().enumerate() {
            let offset = parsed.offset;
            self.simple_statement(&parsed, i + 1 == n).await.map_err(|e| e.shifted(offset))?;
        }
        Ok(())
    }

    async fn simple_statement(&mut self, parsed: &planner::Parsed, last: bool) -> Result<()> {
        let deadline = self.session.deadline();
        self.session.statement_begins(&parsed.text);
        statements::check_allowed(&self.session, &parsed.statement)?;
        let Connection { wire, session, notices, cancel, .. } = self;
        let parameters = Parameters::default();
        let work = statements::run(session, &parsed.statement, &parsed.text, &parameters);
        let mut outcome = attend(wire, notices, cancel, deadline, work).await?;
        self.send_notices();
        // The answer to the last statement is also the answer to COMMIT.
        if last && !matches!(outcome, Outcome::CopyIn(_)) {
            let Connection { wire, session, notices, cancel, .. } = self;
            attend(wire, notices, cancel, deadline, session.end_statements(true)).await?;
        }
        match &mut outcome {
            Outcome::Done(tag) => self.complete(tag.clone()),
            Outcome::Rows(rows) => {
                let Connection { wire, notices, cancel, .. } = self;
                let formats = vec![Format::Text; rows.fields.len()];
                wire.put(PgWireBackendMessage::RowDescription(row_description(&rows.fields, &formats)));
                if rows.flush {
                    wire.flush().await?;
                }
                let style = rows.style.clone();
                let (mut n, mut scratch) = (0, Default::default());
                while let Some(batch) =
                    attend(wire, notices, cancel, deadline, async { rows.batches.next().await.transpose() }).await?
                {
                    for row in 0..batch.num_rows() {
                        put_row(wire.outbox(), &batch, row, &rows.fields, &formats, &style, &mut scratch)?;
                        wire.relieve().await?;
                    }
                    n += batch.num_rows() as u64;
                    if rows.flush {
                        wire.flush().await?;
                    }
                    cancel.check()?;
                }
                let tag = rows.tag.text(n);
                self.complete(tag);
            }
            Outcome::CopyOut(out) => {
                let tag = copy::send(&mut self.wire, &mut self.notices, &self.cancel, deadline, out).await?;
                self.complete(tag);
            }
            Outcome::CopyIn(input) => {
                let tag = self.receive_copy(input, deadline).await?;
                if last {
                    self.session.end_statements(true).await?;
                }
                self.complete(tag);
            }
        }
        Ok(())
    }

    pub(super) fn complete(&mut self, tag: String) {
        self.wire.put(PgWireBackendMessage::CommandComplete(CommandComplete::new(tag)));
    }
}
