//! The system relations: what exists and what goes on, as rows that psql, drivers and people query.
//!
//! A relation is one entry in a list: its name, its columns, and a function that fills it from the catalog, the
//! engine and the sessions. Nothing is stored; a query gets what is true when it starts.

pub mod activity;
pub mod empty;
pub mod foreign;
pub mod headwater_catalog;
pub mod information_schema;
pub mod names;
pub mod objects;
pub mod relation;
pub mod roles;
pub mod types;

use planner::catalog::{Object, ObjectKind};
use storage::RelationId;

use self::relation::{SystemRelation, columns};

/// Every system relation.
pub fn all() -> impl Iterator<Item = &'static SystemRelation> {
    objects::RELATIONS
        .iter()
        .chain(roles::RELATIONS)
        .chain(types::RELATIONS)
        .chain(information_schema::RELATIONS)
        .chain(headwater_catalog::RELATIONS)
        .chain(activity::RELATIONS)
        .chain(foreign::RELATIONS)
        .chain(empty::RELATIONS.iter())
}

/// The system relation of an id.
pub fn find(id: RelationId) -> Option<&'static SystemRelation> {
    all().find(|r| r.oid == id.0)
}

/// Every system relation as an object of the catalog.
pub fn objects_of_all() -> impl Iterator<Item = Object> {
    all().map(|relation| Object {
        id: RelationId(relation.oid),
        schema: relation.schema.to_owned(),
        name: relation.name.to_owned(),
        kind: ObjectKind::System,
        columns: columns(relation.columns),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_relation_has_columns_and_an_id_of_its_own() {
        let mut oids: Vec<u32> = all().map(|r| r.oid).collect();
        let n = oids.len();
        oids.sort();
        oids.dedup();
        assert_eq!(oids.len(), n);
        for relation in all() {
            assert!(!columns(relation.columns).is_empty(), "{}", relation.name);
            assert!(relation.oid < planner::catalog::FIRST_USER_ID, "{}", relation.name);
        }
    }
}
