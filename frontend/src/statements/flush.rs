//! `FLUSH`: waits until everything written or read from sources before is visible and durable.

use crate::error::Result;
use crate::outcome::Outcome;
use crate::session::Session;

/// Waits. `WAIT` means the same.
pub async fn run(session: &mut Session, tag: &str) -> Result<Outcome> {
    session.before_ddl(tag).await?;
    let epoch = session.shared.engine()?.flush().await?;
    session.saw(epoch);
    Ok(Outcome::Done(tag.into()))
}
