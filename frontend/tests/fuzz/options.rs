//! What stands behind `WITH`: lines `name=value`, given to every connector and format that need nobody outside for it.

use std::sync::Arc;

use connectors::{formats, sinks};
use storage::{Column, SqlType};
use streaming::sink::{SinkSpec, SinkType};
use streaming::source::SourceSpec;

const WORDS: [&str; 34] = [
    "\n",
    "=",
    "connector=",
    "path=/tmp/none",
    "type=upsert",
    "primary_key=",
    "host=",
    "port=",
    "database=",
    "table=",
    "jdbc.url=",
    "jdbc:mysql://",
    "jdbc:postgresql://",
    "?user=u&password=p",
    "@",
    "[::1]:",
    "65536",
    "true",
    "1h",
    "9999999999999999999d",
    "datagen.rows.per.second=",
    "fields.id.kind=sequence",
    "fields.id.start=",
    "fields.id.end=",
    "fields.t.length=",
    "nexmark.event.rate=",
    "nexmark.min.event.gap.in.ns=",
    "delimiter=",
    "quote=",
    "header=",
    "timestamp.handling.mode=",
    "match_pattern=",
    "**/*",
    "[a-",
];

#[test]
fn options() {
    let functions = planner::functions();
    let columns = [("id", SqlType::BigInt), ("t", SqlType::Text), ("n", SqlType::Double)];
    let columns: Vec<Column> = columns.into_iter().map(|(name, ty)| Column::new(name, ty)).collect();
    let check = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let options: Vec<(String, String)> = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        for value in options.iter().map(|(_, value)| value) {
            let _ = connectors::options::parse_duration(value);
        }
        for encode in ["json", "csv"] {
            let spec = SourceSpec {
                options: options.clone(),
                format: String::new(),
                encode: encode.to_owned(),
                encode_options: options.clone(),
                columns: columns.clone(),
            };
            let _ = formats::open(&spec);
            let known = connectors::ALL.iter().filter(|connector| connector.name() != "kafka");
            for connector in known {
                let spec = SourceSpec { encode_options: Vec::new(), ..spec.clone() };
                let _ = connector.columns(&spec);
                let _ = connector.fix(&spec);
                let _ = connector.source(&spec);
            }
        }
        for connector in sinks::ALL.iter().filter(|connector| connector.name() != "kafka") {
            let spec = SinkSpec {
                name: "s".into(),
                id: "id".into(),
                options: options.clone(),
                encode: String::new(),
                encode_options: options.clone(),
                key_encode: None,
                kind: SinkType::Upsert,
                columns: columns.clone(),
                types: vec!["bigint".into(), "text".into(), "double precision".into()],
                key: vec![0],
                on_error: Default::default(),
                group: None,
            };
            let _ = connector.sink(&spec, Arc::clone(&functions));
        }
    };
    crate::drive("options", 1200, &WORDS, check);
}
