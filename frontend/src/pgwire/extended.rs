//! The extended protocol: Parse, Bind, Describe, Execute, Close, Sync, Flush.

use std::sync::Arc;

use futures::StreamExt;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::EmptyQueryResponse;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use storage::SqlType;

use crate::error::{Error, Result};
use crate::fields::Format;
use crate::outcome::{Outcome, Parameters};
use crate::pgwire::connection::{Connection, attend};
use crate::pgwire::copy;
use crate::pgwire::portal::{Portal, State};
use crate::pgwire::types::{formats, put_row, row_description};
use crate::session::prepared::Prepared;
use crate::statements::{self, prepare};

impl Connection {
    /// Answers a message of the extended protocol other than Sync.
    pub(super) async fn extended(&mut self, message: PgWireFrontendMessage) -> Result<()> {
        match message {
            PgWireFrontendMessage::Parse(parse) => {
                self.cancel.begin();
                let done = self.parse(parse).await;
                self.cancel.end();
                done
            }
            PgWireFrontendMessage::Bind(bind) => {
                self.cancel.begin();
                let done = self.bind(bind).await;
                self.cancel.end();
                done
            }
            PgWireFrontendMessage::Describe(describe) => self.describe(describe),
            PgWireFrontendMessage::Execute(execute) => {
                self.cancel.begin();
                let done = self.execute(execute).await;
                self.cancel.end();
                done
            }
            PgWireFrontendMessage::Close(close) => {
                self.close(close);
                Ok(())
            }
            PgWireFrontendMessage::Flush(_) => {
                self.send_notices();
                self.wire.flush().await
            }
            // What is left of a COPY that failed.
            PgWireFrontendMessage::CopyData(_)
            | PgWireFrontendMessage::CopyDone(_)
            | PgWireFrontendMessage::CopyFail(_) => Ok(()),
            other => Err(Error::fatal("08P01", format!("unexpected message: {other:?}"))),
        }
    }

    /// The end of a series of messages: without BEGIN they were one transaction.
    pub(super) async fn sync(&mut self) -> Result<()> {
        let ok = !self.skipping;
        self.skipping = false;
        if let Err(error) = self.session.end_statements(ok).await {
            self.fail(&error);
        }
        if !self.session.is_in_block() {
            self.portals.clear();
        }
        self.session.idle();
        self.ready_for_query().await
    }

    async fn parse(&mut self, parse: Parse) -> Result<()> {
        let name = parse.name.unwrap_or_default();
        if !name.is_empty() && self.session.prepared.contains_key(&name) {
            return Err(Error::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.session.prepared.remove(&name);
        let mut parsed = planner::parse(&parse.query)?;
        if parsed.len() > 1 {
            return Err(Error::new("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let parsed = parsed.pop();
        if let Some(parsed) = &parsed {
            statements::check_allowed(&self.session, &parsed.statement)?;
        }
        let types = parse.type_oids.iter().map(|&oid| planner::types::from_oid(oid)).collect();
        let deadline = self.session.deadline();
        let Connection { wire, session, notices, cancel, .. } = self;
        let prepared = attend(wire, notices, cancel, deadline, prepare::prepare(session, parsed, types)).await?;
        self.session.prepared.insert(name, Arc::new(prepared));
        self.wire.put(PgWireBackendMessage::ParseComplete(ParseComplete::new()));
        Ok(())
    }

    fn prepared(&self, name: &str) -> Result<Arc<Prepared>> {
        self.session.prepared.get(name).cloned().ok_or_else(|| {
            let message = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{name}\" does not exist"),
            };
            Error::new("26000", message)
        })
    }

    async fn bind(&mut self, bind: Bind) -> Result<()> {
        let name = bind.portal_name.unwrap_or_default();
        let prepared = self.prepared(bind.statement_name.as_deref().unwrap_or_default())?;
        let deadline = self.session.deadline();
        let Connection { wire, session, notices, cancel, .. } = self;
        let again = prepare::refresh(session, prepared, bind.statement_name.as_deref());
        let prepared = attend(wire, notices, cancel, deadline, again).await?;
        if let Some(parsed) = &prepared.parsed {
            statements::check_allowed(&self.session, &parsed.statement)?;
        }
        if !name.is_empty() && (self.portals.contains_key(&name) || self.session.cursors.contains_key(&name)) {
            return Err(Error::new("42P03", format!("cursor \"{name}\" already exists")));
        }
        let (given, wanted) = (bind.parameters.len(), prepared.parameters.len());
        if given != wanted {
            let message = format!("bind message supplies {given} parameters, but prepared statement requires {wanted}");
            return Err(Error::new("08P01", message));
        }
        let parameter_formats = formats(&bind.parameter_format_codes, wanted)?;
        let style = self.session.text_session();
        let mut values = Vec::with_capacity(wanted);
        for (i, (bytes, ty)) in bind.parameters.iter().zip(&prepared.parameters).enumerate() {
            if let (SqlType::RegClass, Format::Text, Some(name)) = (ty, parameter_formats[i], bytes)
                && let Ok(name) = std::str::from_utf8(name)
            {
                let catalog = self.session.shared.catalogs.current();
                let oid = planner::relation_oid(&catalog, &self.session.bind_settings(), name)?;
                values.push(planner::ScalarValue::Int64(Some(oid)));
                continue;
            }
            values.push(prepare::read_parameter(bytes.as_deref(), ty, parameter_formats[i], i + 1, &style)?);
        }
        let formats = formats(&bind.result_column_format_codes, prepared.fields.as_ref().map_or(0, Vec::len))?;
        let parameters = Parameters { types: prepared.parameters.clone(), values };
        self.portals.insert(name, Portal { prepared, parameters, formats, state: State::Ready });
        self.wire.put(PgWireBackendMessage::BindComplete(BindComplete::new()));
        Ok(())
    }

    fn describe(&mut self, describe: Describe) -> Result<()> {
        let name = describe.name.unwrap_or_default();
        let description = if describe.target_type == b'S' {
            let prepared = self.prepared(&name)?;
            let oids = prepared.parameters.iter().map(planner::types::oid).collect();
            self.wire.put(PgWireBackendMessage::ParameterDescription(ParameterDescription::new(oids)));
            prepared.fields.as_ref().map(|f| row_description(f, &vec![Format::Text; f.len()]))
        } else if let Some(portal) = self.portals.get(&name) {
            portal.prepared.fields.as_ref().map(|f| row_description(f, &portal.formats))
        } else {
            // What DECLARE made is a portal too; its FETCH says in which format the rows come.
            let cursor = self.session.cursors.get(&name).ok_or_else(|| no_portal(&name))?;
            Some(row_description(cursor.fields(), &vec![Format::Text; cursor.fields().len()]))
        };
        self.wire.put(match description {
            Some(description) => PgWireBackendMessage::RowDescription(description),
            None => PgWireBackendMessage::NoData(NoData::new()),
        });
        Ok(())
    }

    fn close(&mut self, close: Close) {
        let name = close.name.unwrap_or_default();
        if close.target_type == b'S' {
            self.session.prepared.remove(&name);
        } else if self.portals.remove(&name).is_none() {
            self.session.cursors.remove(&name);
        }
        self.wire.put(PgWireBackendMessage::CloseComplete(CloseComplete::new()));
    }

    async fn execute(&mut self, execute: Execute) -> Result<()> {
        let name = execute.name.unwrap_or_default();
        // Taken out while it runs; put back when rows are left.
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        let deadline = self.session.deadline();
        if matches!(portal.state, State::Ready) {
            let Some(parsed) = &portal.prepared.parsed else {
                self.wire.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
                self.portals.insert(name, portal);
                return Ok(());
            };
            statements::check_allowed(&self.session, &parsed.statement)?;
            self.session.statement_begins(&parsed.text);
            let Connection { wire, session, notices, cancel, .. } = self;
            let work = statements::run_prepared(session, &portal.prepared, &portal.parameters);
            let outcome = attend(wire, notices, cancel, deadline, work).await?;
            self.send_notices();
            match outcome {
                Outcome::Done(tag) => {
                    self.complete(tag);
                    portal.state = State::Finished;
                }
                Outcome::Rows(rows) => {
                    if portal.formats.len() != rows.fields.len() {
                        portal.formats =
                            vec![portal.formats.first().copied().unwrap_or(Format::Text); rows.fields.len()];
                    }
                    portal.state = State::Suspended { rows, left: None };
                }
                Outcome::CopyOut(mut out) => {
                    let tag = copy::send(&mut self.wire, &mut self.notices, &self.cancel, deadline, &mut out).await?;
                    self.complete(tag);
                    portal.state = State::Finished;
                }
                Outcome::CopyIn(mut input) => {
                    let tag = self.receive_copy(&mut input, deadline).await?;
                    self.complete(tag);
                    portal.state = State::Finished;
                }
            }
        } else if let State::Finished = portal.state {
            self.complete("SELECT 0".to_owned());
        }
        if let State::Suspended { .. } = portal.state {
            self.send_rows(&mut portal, execute.max_rows.max(0) as u64, deadline).await?;
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    /// Sends up to `max` rows, all if 0.
    async fn send_rows(&mut self, portal: &mut Portal, max: u64, deadline: Option<tokio::time::Instant>) -> Result<()> {
        let State::Suspended { rows, left } = &mut portal.state else { return Ok(()) };
        let Connection { wire, notices, cancel, .. } = self;
        let (mut sent, mut scratch) = (0u64, Default::default());
        if rows.flush {
            wire.flush().await?;
        }
        let finished = loop {
            let (batch, from) = match left.take() {
                Some(left) => left,
                None => {
                    let next = async { rows.batches.next().await.transpose() };
                    match attend(wire, notices, cancel, deadline, next).await? {
                        Some(batch) => (batch, 0),
                        None => break true,
                    }
                }
            };
            let mut row = from;
            while row < batch.num_rows() && (max == 0 || sent < max) {
                put_row(wire.outbox(), &batch, row, &rows.fields, &portal.formats, &rows.style, &mut scratch)?;
                wire.relieve().await?;
                row += 1;
                sent += 1;
            }
            if rows.flush {
                wire.flush().await?;
            }
            if row < batch.num_rows() {
                *left = Some((batch, row));
            }
            if max > 0 && sent == max {
                break false;
            }
            cancel.check()?;
        };
        rows.sent += sent;
        if finished {
            let tag = rows.tag.text(sent);
            portal.state = State::Finished;
            self.complete(tag);
        } else {
            self.wire.put(PgWireBackendMessage::PortalSuspended(PortalSuspended::new()));
        }
        Ok(())
    }
}

fn no_portal(name: &str) -> Error {
    Error::new("34000", format!("portal \"{name}\" does not exist"))
}
