//! `TRUNCATE t [, ...]`: every row is taken away.

use planner::statement::ObjectName;
use storage::Batch;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statements::writing;

/// Empties tables.
pub async fn run(session: &mut Session, tables: &[ObjectName]) -> Result<Outcome> {
    session.check_may_write("TRUNCATE TABLE")?;
    let catalog = session.shared.catalogs.current();
    let settings = session.bind_settings();
    for name in tables {
        let table = catalog.expect(name, &settings)?.clone();
        if table.kind != planner::catalog::ObjectKind::Table {
            return Err(Error::new("42809", format!("\"{}\" is not a table", table.name)));
        }
        writing::check_is_table(&table, "truncate")?;
        session.lock(&[table.id]).await?;
        let mut snapshots = session.snapshots(&[table.id], true).await?;
        let mut changes: Vec<Batch> = session.pending(table.id).iter().map(Batch::negate).collect();
        if let Some(snapshot) = snapshots.remove(&table.id) {
            for batch in snapshot.scan(None, 0..256) {
                changes.push(Batch::inserts(batch?).negate());
            }
        }
        writing::apply(session, &table, changes).await?;
    }
    Ok(Outcome::Done("TRUNCATE TABLE".into()))
}
