//! `kill -9` at any moment: what the next start finds is exactly one checkpoint.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use storage::{Checkpoint, Epoch, RelationId, Store, StoreOptions, TableId};

const DIR: &str = "HEADWATER_CRASH_DIR";
const TABLES: u32 = 3;
const KEYS: u64 = 200;

fn options() -> StoreOptions {
    // Files of a few kilobytes: one ingest takes several.
    StoreOptions { ingest_rows_min: 300, ingest_file_bytes: 4096, sync: true, ..StoreOptions::small() }
}

/// Not a test of its own: the process that is killed. Each checkpoint writes its epoch under some keys of every table;
/// which ones follows from the epoch.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Store::open(dir.as_ref(), options()).unwrap();
    let tables: Vec<_> = (1..=TABLES).map(|r| store.table(TableId::new(RelationId(r), 0, 0), 0, 1).unwrap()).collect();
    for epoch in store.last_checkpoint().0 + 1.. {
        for (table, _) in &tables {
            keys(epoch).for_each(|key| table.put(key as u8, &key.to_be_bytes(), &epoch.to_be_bytes()));
        }
        let dirty = tables.iter().filter_map(|(_, dirty)| dirty.take()).collect();
        let meta = vec![(b"offset".to_vec(), Some(epoch.to_be_bytes().to_vec()))];
        store.checkpoint(Checkpoint { epoch: Epoch(epoch), dirty, meta, ..Default::default() }).unwrap();
        // Whoever reads this may rely on it.
        println!("\ndurable {epoch}");
    }
}

/// Few keys (a small checkpoint) or all of them (a large one).
fn keys(epoch: u64) -> impl Iterator<Item = u64> {
    let few = !epoch.is_multiple_of(3);
    (0..KEYS).filter(move |key| !few || (key + epoch).is_multiple_of(20))
}

#[test]
fn finds_exactly_the_last_checkpoint_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix("durable ")?.parse::<u64>().ok()).max().unwrap_or(0)
        });
        std::thread::sleep(Duration::from_millis(60 + round * 23));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = acknowledged.max(reader.join().unwrap());

        let store = Store::open(dir.path(), options()).unwrap();
        let epoch = store.last_checkpoint().0;
        assert!(epoch >= acknowledged, "epoch {acknowledged} was durable, {epoch} is found");
        let offset = store.meta_get(b"offset").unwrap();
        assert_eq!(offset, (epoch > 0).then(|| epoch.to_be_bytes().to_vec()));
        for relation in 1..=TABLES {
            let (table, _) = store.table(TableId::new(RelationId(relation), 0, 0), 0, 1).unwrap();
            for key in 0..KEYS {
                let expected = (1..=epoch).rfind(|epoch| keys(*epoch).any(|k| k == key));
                let found = table.get(key as u8, &key.to_be_bytes()).unwrap();
                assert_eq!(
                    found,
                    expected.map(|e| e.to_be_bytes().to_vec()),
                    "key {key} of table {relation} at {epoch}"
                );
            }
        }
    }
    assert!(acknowledged > 0, "no child lived long enough to say anything");
}
