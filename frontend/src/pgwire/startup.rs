//! The first messages of a connection: it is encrypted if that is wished, the startup parameters become settings, the
//! client proves who it is, a cancel request is passed on.

use std::sync::Arc;

use pgwire::messages::response::SslResponse;
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, Startup};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::error::{Error, Result};
use crate::pg_catalog::names::DATABASE;
use crate::pgwire::authentication::authenticate;
use crate::pgwire::connection::{Connection, NOTICES_MAX};
use crate::pgwire::wire::{Wire, decode};
use crate::session::Session;
use crate::settings::SETTINGS;
use crate::shared::Shared;

/// Startup messages are small.
const STARTUP_BYTES_MAX: usize = 10_000;

/// Takes up a connection. `None` if it was a cancel request or left again. `knocking` is given back when it is in.
pub async fn accept(
    shared: Arc<Shared>,
    stream: TcpStream,
    knocking: OwnedSemaphorePermit,
) -> Result<Option<Connection>> {
    let peer = stream.peer_addr().ok();
    let mut wire = Wire::new(stream, &shared);
    let startup = tokio::time::timeout(shared.config.connect_timeout, introduce(&shared, &mut wire))
        .await
        .unwrap_or_else(|_| Err(Error::fatal("08006", "canceling authentication due to timeout")));
    let startup = match startup {
        Ok(Some(startup)) => startup,
        Ok(None) => return Ok(None),
        Err(error) => return refuse(wire, error).await,
    };
    // Counted from here on: a flood of cancel requests must get through.
    let Some(place) = shared.take_place() else {
        return refuse(wire, Error::fatal("53300", "sorry, too many clients already")).await;
    };
    drop(knocking);
    wire.welcome(&shared.config);
    let registered = shared.connections.register();
    let (sender, notices) = mpsc::channel(NOTICES_MAX);
    let mut session = Session::new(shared.clone(), registered.pid, peer, sender, place);
    if let Err(error) = apply(&mut session, &startup) {
        return refuse(wire, error).await;
    }
    if startup.protocol_number_minor > 0 || startup.parameters.keys().any(|k| k.starts_with("_pq_.")) {
        let options = startup.parameters.keys().filter(|k| k.starts_with("_pq_.")).cloned().collect();
        wire.put(PgWireBackendMessage::NegotiateProtocolVersion(NegotiateProtocolVersion::new(
            Startup::PROTOCOL_VERSION_3_0,
            options,
        )));
    }
    wire.put(PgWireBackendMessage::Authentication(Authentication::Ok));
    for setting in SETTINGS.iter().filter(|s| s.reported) {
        let value = session.settings.of(setting).to_owned();
        wire.put(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(setting.name.to_owned(), value)));
    }
    session.take_reports();
    wire.put(PgWireBackendMessage::BackendKeyData(BackendKeyData::new(registered.pid, registered.secret.clone())));
    Ok(Some(Connection {
        wire,
        session,
        notices,
        cancel: registered.cancel.clone(),
        portals: Default::default(),
        skipping: false,
        is_ready: false,
        registered,
    }))
}

/// Reads until the client has said what it wants and proved who it is.
async fn introduce(shared: &Shared, wire: &mut Wire) -> Result<Option<Startup>> {
    let Some(startup) = first_message(shared, wire).await? else { return Ok(None) };
    authenticate(shared, wire, user_of(&startup)?).await?;
    Ok(Some(startup))
}

fn user_of(startup: &Startup) -> Result<&str> {
    let user = startup.parameters.get("user").map(String::as_str).filter(|user| !user.is_empty());
    user.ok_or_else(|| Error::fatal("28000", "no PostgreSQL user name specified in startup packet"))
}

async fn refuse(mut wire: Wire, error: Error) -> Result<Option<Connection>> {
    wire.put_error(&error);
    wire.flush().await?;
    Err(error)
}

/// Reads until the startup message.
async fn first_message(shared: &Shared, wire: &mut Wire) -> Result<Option<Startup>> {
    let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
    loop {
        if !wire.fill(8).await? {
            return Ok(None);
        }
        let length = u32::from_be_bytes(wire.inbox[..4].try_into().expect("four bytes")) as usize;
        if !(8..=STARTUP_BYTES_MAX).contains(&length) {
            return Err(Error::fatal("08P01", "invalid length of startup packet"));
        }
        if !wire.fill(length).await? {
            return Ok(None);
        }
        let mut frame = wire.inbox.split_to(length);
        let code = u32::from_be_bytes(frame[4..8].try_into().expect("four bytes"));
        const SSL: u32 = 80_877_103;
        const GSS: u32 = 80_877_104;
        if code == SSL
            && let Some(tls) = shared.tls.as_ref().filter(|_| !wire.is_encrypted())
        {
            wire.put(PgWireBackendMessage::SslResponse(SslResponse::Accept));
            wire.flush().await?;
            wire.encrypt(tls).await?;
            continue;
        }
        if code == SSL || code == GSS {
            // Both are declined by the same byte.
            wire.put(PgWireBackendMessage::SslResponse(SslResponse::Refuse));
            wire.flush().await?;
            continue;
        }
        if code >> 16 != 3 && code != 80_877_102 {
            let message =
                format!("unsupported frontend protocol {}.{}: server supports 3.0", code >> 16, code & 0xffff);
            return Err(Error::fatal("0A000", message));
        }
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = true;
        // A key of any length may come; ours have four bytes.
        let decoded = decode(&mut frame, &context);
        return match decoded {
            Ok(Some(PgWireFrontendMessage::Startup(startup))) => Ok(Some(startup)),
            Ok(Some(PgWireFrontendMessage::CancelRequest(cancel))) => {
                shared.connections.request(cancel.pid, &cancel.secret_key);
                Ok(None)
            }
            Ok(_) => Err(Error::fatal("08P01", "invalid startup packet")),
            Err(error) => Err(error),
        };
    }
}

/// The startup parameters: user, database, and settings, alone or in `options`.
fn apply(session: &mut Session, startup: &Startup) -> Result<()> {
    let user = user_of(startup)?.to_owned();
    session.user = user.clone();
    // There is one database. Clients that name none mean it by the user's name, and tools look for "postgres".
    let database = startup.parameters.get("database").map_or(DATABASE, String::as_str);
    if ![DATABASE, "", "postgres", "template1", &user].contains(&database) {
        return Err(Error::fatal("3D000", format!("database \"{database}\" does not exist")));
    }
    session.settings.fix("session_authorization", user);
    let fatal = |e: Error| {
        let fields = e.fields();
        Error::fatal(&fields.sqlstate, fields.message.clone())
    };
    for (name, value) in &startup.parameters {
        match name.as_str() {
            "user" | "database" | "replication" => (),
            "options" => {
                for (name, value) in options(value) {
                    session.settings.set(&name, &value).map_err(fatal)?;
                }
            }
            name if name.starts_with("_pq_.") => (),
            name => {
                session.settings.set(name, value).map_err(fatal)?;
            }
        }
    }
    session.settings.connected();
    session.connected();
    Ok(())
}

/// `-c name=value`, `-cname=value` and `--name=value`, parted by spaces; a backslash takes the next character as is.
fn options(text: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => words.last_mut().expect("one").extend(chars.next()),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => words.last_mut().expect("one").push(c),
        }
    }
    let mut found = Vec::new();
    let mut words = words.into_iter().filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("-c") {
            Some("") => words.next().unwrap_or_default(),
            Some(pair) => pair.to_owned(),
            None => word.strip_prefix("--").unwrap_or_default().to_owned(),
        };
        if let Some((name, value)) = pair.split_once('=') {
            found.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn splits_options_as_libpq_writes_them() {
        let found = super::options(r"-c search_path=a,b -cjit=off --statement_timeout=5s -c app.x=a\ b");
        let found: Vec<_> = found.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(found, ["search_path=a,b", "jit=off", "statement_timeout=5s", "app.x=a b"]);
    }
}
