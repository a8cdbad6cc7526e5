//! COPY over the wire: rows out as CopyData, CopyData in as rows.

use bytes::Bytes;
use futures::StreamExt;
use pgwire::messages::copy::{CopyData, CopyDone, CopyInResponse, CopyOutResponse};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::outcome::{CopyIn, CopyOut};
use crate::pgwire::cancel::Cancel;
use crate::pgwire::connection::{Connection, attend};
use crate::pgwire::wire::{Incoming, Wire};
use crate::statements::copy;

/// Rows that are handed on at once.
const COPY_BYTES: usize = 64 << 10;

/// Sends the rows of COPY ... TO STDOUT.
pub async fn send(
    wire: &mut Wire,
    notices: &mut mpsc::Receiver<Error>,
    cancel: &Cancel,
    deadline: Option<Instant>,
    out: &mut CopyOut,
) -> Result<String> {
    let n = out.rows.fields.len();
    let response = CopyOutResponse::new(0, n as i16, vec![0; n]);
    wire.put(PgWireBackendMessage::CopyOutResponse(response));
    let mut rows = 0;
    let mut text = out.options.header(&out.rows.fields);
    loop {
        let next = async { out.rows.batches.next().await.transpose() };
        let Some(batch) = attend(wire, notices, cancel, deadline, next).await? else { break };
        for row in 0..batch.num_rows() {
            out.options.write_row(&out.rows.fields, &out.rows.style, &batch, row, &mut text);
            // A message per row, as Postgres: clients rely on it.
            let data = Bytes::from(std::mem::take(&mut text).into_bytes());
            wire.put(PgWireBackendMessage::CopyData(CopyData::new(data)));
            wire.relieve().await?;
        }
        rows += batch.num_rows();
        cancel.check()?;
    }
    if !text.is_empty() {
        wire.put(PgWireBackendMessage::CopyData(CopyData::new(Bytes::from(text.into_bytes()))));
    }
    wire.put(PgWireBackendMessage::CopyDone(CopyDone::new()));
    Ok(format!("COPY {rows}"))
}

impl Connection {
    /// Receives the rows of COPY ... FROM STDIN.
    pub(super) async fn receive_copy(&mut self, input: &mut CopyIn, deadline: Option<Instant>) -> Result<String> {
        let n = input.columns.len();
        let response = CopyInResponse::new(0, n as i16, vec![0; n]);
        self.wire.put(PgWireBackendMessage::CopyInResponse(response));
        self.wire.flush().await?;
        // After an error the rest of the data is still to be read before anything else is said.
        let mut failed = None;
        let mut waiting = Vec::new();
        loop {
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            // Nothing is lost when this stops to listen: what came is in the inbox.
            let incoming = tokio::select! {
                biased;
                incoming = self.wire.next() => incoming?,
                error = self.cancel.wanted() => return Err(error),
                () = late => return Err(Error::late()),
            };
            match incoming {
                Incoming::Gone => return Err(Error::fatal("08006", "unexpected EOF on client connection during COPY")),
                Incoming::Refused(_, error) => failed = failed.or(Some(error)),
                Incoming::Message(PgWireFrontendMessage::CopyData(data)) if failed.is_none() => {
                    waiting.extend_from_slice(&data.data);
                    if waiting.len() >= COPY_BYTES {
                        failed = copy::push(&mut self.session, input, &waiting).await.err();
                        waiting.clear();
                    }
                    failed = failed.or(self.cancel.check().err());
                }
                Incoming::Message(PgWireFrontendMessage::CopyData(_)) => (),
                Incoming::Message(PgWireFrontendMessage::CopyDone(_)) => break,
                Incoming::Message(PgWireFrontendMessage::CopyFail(fail)) => {
                    let message = format!("COPY from stdin failed: {}", fail.message);
                    failed = Some(Error::new("57014", message));
                    break;
                }
                // Clients say Sync right behind the Execute that begins the COPY.
                Incoming::Message(PgWireFrontendMessage::Flush(_) | PgWireFrontendMessage::Sync(_)) => (),
                Incoming::Message(_) => {
                    return Err(Error::fatal("08P01", "unexpected message type during COPY from stdin"));
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        copy::push(&mut self.session, input, &waiting).await?;
        copy::finish(&mut self.session, input).await
    }
}
