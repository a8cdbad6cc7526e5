//! What is there after a restart.

use std::fs;

use storage::{Checkpoint, Epoch, Error, RelationId, Store, StoreOptions, TableId};

use crate::{checkpoint, open};

#[test]
fn reopens_at_the_last_checkpoint() {
    for ingest in [1, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), ingest);
        assert_eq!(store.last_checkpoint(), Epoch(0));
        let (table, dirty) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
        assert!(table.is_new());
        table.put(1, b"a", b"1");
        table.put(2, b"b", b"2");
        let meta = vec![(b"offset".to_vec(), Some(b"17".to_vec()))];
        let stats = store
            .checkpoint(Checkpoint { epoch: Epoch(5), dirty: vec![dirty.take().unwrap()], meta, ..Default::default() })
            .unwrap();
        assert_eq!((stats.rows, stats.ingested), (4, ingest == 1));
        // Neither of these is part of a checkpoint.
        table.put(1, b"a", b"lost");
        table.put(3, b"c", b"lost");
        drop((table, dirty, store));

        let store = open(dir.path(), ingest);
        assert_eq!(store.last_checkpoint(), Epoch(5));
        assert_eq!(store.meta_get(b"offset").unwrap(), Some(b"17".to_vec()));
        assert_eq!(store.meta_get(b"offse").unwrap(), None);
        let (table, _) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
        assert!(!table.is_new());
        let mut rows = Vec::new();
        table
            .scan(&mut |vnode, key, value| {
                rows.push((vnode, key.to_vec(), value.to_vec()));
                Ok(())
            })
            .unwrap();
        assert_eq!(rows, [(1, b"a".to_vec(), b"1".to_vec()), (2, b"b".to_vec(), b"2".to_vec())]);
    }
}

#[test]
fn gives_each_worker_its_vnodes_whatever_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1000);
    let id = TableId::new(RelationId(1), 0, 0);
    let tables: Vec<_> = (0..3).map(|worker| store.table(id, worker, 3).unwrap()).collect();
    for (table, _) in &tables {
        table.vnodes().for_each(|vnode| table.put(vnode as u8, b"k", &[vnode as u8]));
    }
    checkpoint(&store, 1, &tables.iter().map(|(_, dirty)| dirty).collect::<Vec<_>>()).unwrap();
    for workers in [1, 2, 5, 256] {
        let mut seen = Vec::new();
        for worker in 0..workers {
            let (table, _) = store.table(id, worker, workers).unwrap();
            table
                .scan(&mut |vnode, _, value| {
                    assert_eq!(value, [vnode]);
                    seen.push(vnode);
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    }
}

#[test]
fn scans_the_meta_table_by_prefix_and_deletes_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1000);
    let set = |key: &str, value: Option<&str>| (key.as_bytes().to_vec(), value.map(|v| v.as_bytes().to_vec()));
    let meta = vec![set("a/1", Some("x")), set("a/2", Some("y")), set("b", Some("z")), set("", Some("empty"))];
    store.checkpoint(Checkpoint { epoch: Epoch(1), meta, ..Default::default() }).unwrap();
    let keys = |prefix: &[u8]| -> Vec<String> {
        let rows = store.meta_scan(prefix).unwrap();
        rows.into_iter()
            .map(|(k, v)| format!("{}={}", String::from_utf8(k).unwrap(), String::from_utf8(v).unwrap()))
            .collect()
    };
    assert_eq!(keys(b"a/"), ["a/1=x", "a/2=y"]);
    assert_eq!(keys(b""), ["=empty", "a/1=x", "a/2=y", "b=z"]);
    let meta = vec![set("a/1", None), set("c", None)];
    store.checkpoint(Checkpoint { epoch: Epoch(2), meta, ..Default::default() }).unwrap();
    assert_eq!(keys(b"a"), ["a/2=y"]);
}

#[test]
fn drops_relations_with_all_their_tables() {
    for ingest in [1, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), ingest);
        let ids =
            [TableId::new(RelationId(1), 0, 0), TableId::new(RelationId(2), 0, 0), TableId::new(RelationId(2), 7, 3)];
        let tables: Vec<_> = ids.iter().map(|id| store.table(*id, 0, 1).unwrap()).collect();
        tables.iter().for_each(|(table, _)| table.put(200, b"k", b"v"));
        let dirty: Vec<_> = tables.iter().map(|(_, dirty)| dirty).collect();
        checkpoint(&store, 1, &dirty).unwrap();
        // What the dropped relation still had to say is not written either.
        tables[2].0.put(0, b"late", b"v");
        let late = vec![dirty[2].take().unwrap()];
        let drop = vec![RelationId(2)];
        store.checkpoint(Checkpoint { epoch: Epoch(2), dirty: late, drop, ..Default::default() }).unwrap();
        std::mem::drop(tables);
        let is_new: Vec<bool> = ids.iter().map(|id| store.table(*id, 0, 1).unwrap().0.is_new()).collect();
        assert_eq!(is_new, [false, true, true]);
        std::mem::drop(store);
        let store = open(dir.path(), ingest);
        let is_new: Vec<bool> = ids.iter().map(|id| store.table(*id, 0, 1).unwrap().0.is_new()).collect();
        assert_eq!(is_new, [false, true, true]);
    }
}

#[test]
fn purges_what_the_catalog_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1000);
    for relation in [1, 3, 4, 900] {
        let (table, dirty) = store.table(TableId::new(RelationId(relation), 1, 0), 0, 1).unwrap();
        table.put(9, b"k", b"v");
        checkpoint(&store, 1, &[&dirty]).unwrap();
    }
    assert_eq!(store.purge_except(&[RelationId(3), RelationId(5)]).unwrap(), [1, 4, 900].map(RelationId));
    assert_eq!(store.purge_except(&[RelationId(3)]).unwrap(), []);
    let left: Vec<_> = store.relation_sizes().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, [RelationId(3)]);
}

#[test]
fn refuses_a_directory_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1000);
    let error = Store::open(dir.path(), StoreOptions::small()).err().unwrap();
    let process = std::process::id();
    let expected =
        format!("data directory \"{}\" is in use by another server (process {process})", dir.path().display());
    assert!(matches!(&error, Error::Conflict(text) if *text == expected), "{error}");
    drop(store);
    open(dir.path(), 1000);
}

#[test]
fn refuses_a_newer_format_and_names_both() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1000));
    let head = "headwater data directory\nformat 2\n";
    let checksum = xxhash_rust::xxh3::xxh3_64(head.as_bytes());
    fs::write(dir.path().join("format"), format!("{head}{checksum:016x}\n")).unwrap();
    let error = Store::open(dir.path(), StoreOptions::small()).err().unwrap();
    assert!(
        matches!(&error, Error::Conflict(text) if text.contains("has format 2") && text.contains("formats up to 1")),
        "{error}"
    );
}

#[test]
fn sweeps_files_that_were_never_ingested() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1));
    let leftover = dir.path().join("ingest/000000.sst");
    fs::write(&leftover, b"half a file").unwrap();
    let store = open(dir.path(), 1);
    assert!(!leftover.exists());
    checkpoint(&store, 1, &[]).unwrap();
}

#[test]
fn a_failed_checkpoint_leaves_its_entries_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1);
    let (table, dirty) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
    table.put(0, b"a", b"old");
    table.put(0, b"b", b"old");
    fs::remove_dir(dir.path().join("ingest")).unwrap();
    let meta = vec![(b"m".to_vec(), Some(Vec::new()))];
    let failing = Checkpoint { epoch: Epoch(1), dirty: vec![dirty.take().unwrap()], meta, ..Default::default() };
    assert!(matches!(store.checkpoint(failing), Err(Error::Io(_))));
    assert_eq!(store.last_checkpoint(), Epoch(0));
    assert_eq!(store.meta_get(b"m").unwrap(), None);
    // Still readable, and overwritten by what comes later.
    assert_eq!(table.get(0, b"a").unwrap(), Some(b"old".to_vec()));
    table.put(0, b"b", b"new");
    fs::create_dir(dir.path().join("ingest")).unwrap();
    checkpoint(&store, 2, &[&dirty]).unwrap();
    drop((table, dirty, store));
    let store = open(dir.path(), 1);
    let (table, _) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
    assert_eq!(table.multi_get(&[(0, b"a"), (0, b"b")]).unwrap(), [Some(b"old".to_vec()), Some(b"new".to_vec())]);
}

#[test]
fn a_copy_of_the_directory_opens_as_of_its_last_checkpoint() {
    // What a crash leaves: files as they are on disk, with nobody having closed them.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 30);
    let (table, dirty) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
    for epoch in 1..=12u64 {
        // Small and large checkpoints in turn.
        for i in 0..if epoch % 3 == 0 { 50 } else { 5u64 } {
            table.put(i as u8, &i.to_be_bytes(), &epoch.to_be_bytes());
        }
        checkpoint(&store, epoch, &[&dirty]).unwrap();
        table.put(0, b"never", b"committed");
        // A compaction in the background may change files while they are copied: then the copy is of no moment.
        let copy = loop {
            let (copy, before) = (tempfile::tempdir().unwrap(), listing(&dir.path().join("db")));
            copy_dir(dir.path(), copy.path());
            if before == listing(&dir.path().join("db")) {
                break copy;
            }
        };
        let store = open(copy.path(), 30);
        assert_eq!(store.last_checkpoint(), Epoch(epoch));
        let (copied, _) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
        assert_eq!(copied.get(3, &3u64.to_be_bytes()).unwrap(), Some(epoch.to_be_bytes().to_vec()));
        let large = epoch / 3 * 3;
        let expected = (large > 0).then(|| large.to_be_bytes().to_vec());
        assert_eq!(copied.get(40, &40u64.to_be_bytes()).unwrap(), expected);
        assert_eq!(copied.get(0, b"never").unwrap(), None);
        table.delete(0, b"never");
    }
}

fn listing(dir: &std::path::Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries.map(|e| (e.file_name(), e.metadata().map_or(0, |m| m.len()))).collect();
    files.sort();
    files
}

pub fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            // A file of RocksDB may go away while we look.
            let _ = fs::copy(&path, &target);
        }
    }
}
