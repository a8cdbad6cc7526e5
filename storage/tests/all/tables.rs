//! A state table against a map, under random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;
use storage::{Checkpoint, Epoch, RelationId, StateTable, TableId};

use crate::open;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>, Vec<u8>),
    Delete(u8, Vec<u8>),
    /// The driver takes the dirty entries; the checkpoint comes later.
    Take,
    /// A checkpoint of everything taken.
    Commit,
    /// A checkpoint that fails and is repeated at the next one.
    Fail,
    /// Everything that is not committed is lost.
    Reopen,
    Prefix(u8, Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, 0xff]), 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let vnode = || prop::sample::select(vec![0u8, 1, 127, 255]);
    let value = prop::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        12 => (vnode(), key(), value).prop_map(|(v, k, value)| Step::Put(v, k, value)),
        5 => (vnode(), key()).prop_map(|(v, k)| Step::Delete(v, k)),
        3 => Just(Step::Take),
        2 => Just(Step::Commit),
        1 => Just(Step::Fail),
        1 => Just(Step::Reopen),
        4 => (vnode(), key()).prop_map(|(v, k)| Step::Prefix(v, k)),
    ]
}

type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

fn check(table: &StateTable, model: &Model) {
    let mut rows = Vec::new();
    table
        .scan(&mut |vnode, key, value| {
            rows.push(((vnode, key.to_vec()), value.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!(rows, model.clone().into_iter().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_what_a_map_would(steps in prop::collection::vec(step(), 1..120), ingest in prop::sample::select(vec![1, 8, 1000])) {
        let dir = tempfile::tempdir().unwrap();
        let id = TableId::new(RelationId(7), 3, 1);
        let mut store = open(dir.path(), ingest);
        let (mut table, mut dirty) = store.table(id, 0, 1).unwrap();
        let (mut now, mut taken, mut durable) = (Model::new(), Model::new(), Model::new());
        let (mut runs, mut epoch) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Put(vnode, key, value) => {
                    table.put(vnode, &key, &value);
                    now.insert((vnode, key.clone()), value.clone());
                    prop_assert_eq!(table.get(vnode, &key).unwrap(), Some(value));
                }
                Step::Delete(vnode, key) => {
                    table.delete(vnode, &key);
                    now.remove(&(vnode, key.clone()));
                    prop_assert_eq!(table.get(vnode, &key).unwrap(), None);
                }
                Step::Take => {
                    runs.extend(dirty.take());
                    taken = now.clone();
                }
                Step::Commit => {
                    epoch += 1;
                    let dirty = std::mem::take(&mut runs);
                    store.checkpoint(Checkpoint { epoch: Epoch(epoch), dirty, ..Default::default() }).unwrap();
                    durable = taken.clone();
                }
                Step::Fail => {
                    if ingest == 1 {
                        std::fs::remove_dir_all(dir.path().join("ingest")).unwrap();
                        epoch += 1;
                        let dirty = std::mem::take(&mut runs);
                        let failed = store.checkpoint(Checkpoint { epoch: Epoch(epoch), dirty, ..Default::default() });
                        prop_assert!(failed.is_err());
                        std::fs::create_dir(dir.path().join("ingest")).unwrap();
                    }
                }
                Step::Reopen => {
                    runs.clear();
                    drop((table, dirty, store));
                    store = open(dir.path(), ingest);
                    (table, dirty) = store.table(id, 0, 1).unwrap();
                    prop_assert_eq!(table.is_new(), durable.is_empty());
                    (now, taken) = (durable.clone(), durable.clone());
                    epoch = store.last_checkpoint().0;
                }
                Step::Prefix(vnode, prefix) => {
                    let rows = table.scan_prefix(vnode, &prefix).unwrap();
                    let expected: Vec<_> = now.iter()
                        .filter(|((v, k), _)| *v == vnode && k.starts_with(&prefix))
                        .map(|((_, k), v)| (k.clone(), v.clone()))
                        .collect();
                    prop_assert_eq!(rows, expected);
                }
            }
            let keys: Vec<(u8, &[u8])> = vec![(0, b"\0"), (0, b""), (255, b"\xff\xff"), (1, b"\x01\0")];
            let expected: Vec<_> = keys.iter().map(|(v, k)| now.get(&(*v, k.to_vec())).cloned()).collect();
            prop_assert_eq!(table.multi_get(&keys).unwrap(), expected);
        }
        check(&table, &now);
    }
}
