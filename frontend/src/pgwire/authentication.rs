//! Who a client is: taken on trust, or proved with a password by SCRAM-SHA-256, over TLS bound to the certificate.

use bytes::Bytes;
use pgwire::api::auth::sasl::scram::ScramServerAuth;
use pgwire::error::PgWireError;
use pgwire::messages::startup::{Authentication, PasswordMessageFamily};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};

use crate::activity::now_us;
use crate::error::{Error, Result};
use crate::pgwire::password;
use crate::pgwire::wire::{Incoming, Wire};
use crate::shared::{Authenticate, Shared};

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Finds out whether the client is who it says.
pub async fn authenticate(shared: &Shared, wire: &mut Wire, user: &str) -> Result<()> {
    if shared.config.authenticate == Authenticate::Trust {
        return Ok(());
    }
    let role = shared.roles.get(user);
    let secret = role.as_ref().and_then(|role| password::parse(role.verifier(now_us())?));
    let secret = secret.unwrap_or_else(|| password::nobody(user, &shared.seed));
    let binding = shared.tls.as_ref().filter(|_| wire.is_encrypted()).and_then(|tls| tls.binding());
    let mechanisms = match &binding {
        Some(_) => vec![SCRAM_PLUS.to_owned(), SCRAM.to_owned()],
        None => vec![SCRAM.to_owned()],
    };
    let is_bindable = binding.is_some();
    ask(wire, Authentication::SASL(mechanisms)).await?;
    let first = answer(wire).await?.into_sasl_initial_response().map_err(|_| malformed())?;
    let data = first.data.unwrap_or_default();
    // Whoever binds says so twice.
    let binds = data.first() == Some(&b'p');
    match first.auth_method.as_str() {
        SCRAM if !binds => (),
        SCRAM_PLUS if binds && is_bindable => (),
        SCRAM | SCRAM_PLUS => return Err(malformed()),
        _ => return Err(Error::fatal("08P01", "client selected an invalid SASL authentication mechanism")),
    }
    let exchange = binding.unwrap_or_else(ScramServerAuth::new);
    let (say, exchange) = exchange.on_client_first_message_with_secret(&data, secret).map_err(|_| malformed())?;
    ask(wire, Authentication::SASLContinue(Bytes::from(say))).await?;
    let last = answer(wire).await?.into_sasl_response().map_err(|_| malformed())?;
    let say = exchange.on_client_final_message(&last.data).map_err(|error| match error {
        PgWireError::InvalidPassword(_) => {
            Error::fatal("28P01", format!("password authentication failed for user \"{user}\""))
        }
        _ => malformed(),
    })?;
    if role.is_none_or(|role| !role.can_login) {
        return Err(Error::fatal("28000", format!("role \"{user}\" is not permitted to log in")));
    }
    wire.put(PgWireBackendMessage::Authentication(Authentication::SASLFinal(Bytes::from(say))));
    Ok(())
}

async fn ask(wire: &mut Wire, question: Authentication) -> Result<()> {
    wire.put(PgWireBackendMessage::Authentication(question));
    wire.flush().await
}

async fn answer(wire: &mut Wire) -> Result<PasswordMessageFamily> {
    match wire.next().await? {
        Incoming::Message(PgWireFrontendMessage::PasswordMessageFamily(message)) => Ok(message),
        Incoming::Gone => Err(Error::fatal("08006", "the client left before it said its password")),
        Incoming::Refused(..) | Incoming::Message(_) => Err(Error::fatal("08P01", "expected SASL response")),
    }
}

fn malformed() -> Error {
    Error::fatal("08P01", "malformed SCRAM message")
}
