//! The Kafka source against a real broker, which `bench/services/kafka.sh` makes of packages.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use connectors::Connectors;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, TopicPartitionList};
use storage::{Column, SqlType};
use streaming::error::Error;
use streaming::operator::RowError;
use streaming::source::{Offset, Read, Source, SourceSpec, Sources, SplitReader};

/// Longer than anything should take, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Broker {
    dir: tempfile::TempDir,
    port: u16,
}

impl Broker {
    fn start() -> Broker {
        // The broker takes a port and the one behind it.
        let port = loop {
            let first = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = first.local_addr().unwrap().port();
            if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
                break port;
            }
        };
        let broker = Broker { dir: tempfile::tempdir().unwrap(), port };
        broker.script(&["start"]);
        broker
    }

    /// The broker that tests share; it ends with the last of them.
    fn shared() -> Arc<Broker> {
        static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let broker = Arc::new(Broker::start());
            *shared = Arc::downgrade(&broker);
            broker
        })
    }

    fn script(&self, arguments: &[&str]) {
        assert!(self.run(arguments), "kafka.sh {arguments:?}");
    }

    fn run(&self, arguments: &[&str]) -> bool {
        let script = Path::new("../bench/services/kafka.sh");
        let mut command = Command::new(script);
        command.args(arguments).stdout(Stdio::null());
        command.env("HEADWATER_SERVICES", self.dir.path()).env("HEADWATER_KAFKA_PORT", self.port.to_string());
        command.status().is_ok_and(|status| status.success())
    }

    fn topic(&self, name: &str, partitions: usize) {
        self.script(&["topic", name, &partitions.to_string()]);
    }

    fn add_partitions(&self, name: &str, partitions: usize) {
        let (class, server) = ("org.apache.kafka.tools.TopicCommand", self.address());
        let partitions = partitions.to_string();
        self.script(&[
            "tool",
            class,
            "--bootstrap-server",
            &server,
            "--alter",
            "--topic",
            name,
            "--partitions",
            &partitions,
        ]);
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn producer(&self, settings: &[(&str, &str)]) -> BaseProducer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address()).set("linger.ms", "5");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create().unwrap()
    }

    fn spec(&self, topic: &str, options: &[(&str, &str)]) -> SourceSpec {
        let mut all = vec![
            ("connector".to_string(), "kafka".to_string()),
            ("topic".to_string(), topic.to_string()),
            ("properties.bootstrap.server".to_string(), self.address()),
        ];
        all.extend(options.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        SourceSpec {
            options: all,
            format: "plain".into(),
            encode: "json".into(),
            encode_options: vec![],
            columns: vec![Column::new("n", SqlType::BigInt), Column::new("word", SqlType::Text)],
        }
    }

    fn source(&self, topic: &str, options: &[(&str, &str)]) -> Arc<dyn Source> {
        Connectors.open(&self.spec(topic, options)).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Its data goes with the folder. A panic here would hide the test's.
        self.run(&["kill"]);
    }
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, values: impl IntoIterator<Item = String>) {
    for value in values {
        producer.send(BaseRecord::<str, str>::to(topic).partition(partition).payload(&value)).map_err(|e| e.0).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).unwrap();
}

fn numbers(range: std::ops::Range<i64>) -> impl Iterator<Item = String> {
    range.map(|n| format!("{{\"n\":{n},\"word\":\"w{n}\"}}"))
}

/// Reads up to `end`: the first column, the errors, and the position.
fn read_to(reader: &mut dyn SplitReader, end: i64) -> (Vec<i64>, Vec<RowError>, i64) {
    let (mut values, mut errors, started) = (Vec::new(), Vec::new(), Instant::now());
    loop {
        assert!(started.elapsed() < PATIENCE, "at {} values, not at {end}", values.len());
        let next = match reader.read(100, Duration::from_millis(50)).unwrap() {
            Read::Records(records) => {
                values.extend_from_slice(records.batch.column(0).as_primitive::<Int64Type>().values());
                errors.extend(records.errors);
                records.next.0
            }
            Read::Idle { next } | Read::End { next } => next.0,
        };
        if next >= end {
            return (values, errors, next);
        }
    }
}

#[test]
fn reads_every_record_of_every_partition_once() {
    let broker = Broker::shared();
    broker.topic("every", 3);
    let producer = broker.producer(&[]);
    for partition in 0..3 {
        let from = i64::from(partition) * 1000;
        send(&producer, "every", partition, numbers(from..from + 1000));
    }
    let source = broker.source("every", &[]);
    let splits = source.splits().unwrap();
    assert_eq!(splits.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["0", "1", "2"]);
    for (n, split) in splits.iter().enumerate() {
        let end = source.end(&split.id).unwrap().unwrap().0;
        assert_eq!(end, 1000);
        let mut reader = source.open(&split.id, n as u16, split.start, &[0]).unwrap();
        let from = n as i64 * 1000;
        assert_eq!(read_to(reader.as_mut(), end), (((from)..from + 1000).collect(), vec![], 1000));
        drop(reader);
        // And from the middle, with the ids that rows had before.
        let mut reader = source.open(&split.id, n as u16, Offset(990), &[2]).unwrap();
        let ids: Vec<i64> = (990..1000).map(|offset| (n as i64) << 48 | offset).collect();
        assert_eq!(read_to(reader.as_mut(), end).0, ids);
    }
}

/// For people who watch the lag: nothing is ever read from there.
#[test]
fn tells_the_broker_how_far_it_is() {
    let broker = Broker::shared();
    broker.topic("told", 2);
    send(&broker.producer(&[]), "told", 1, numbers(0..10));
    for (options, group) in [
        (vec![], "headwater-told"),
        (vec![("group.id.prefix", "mine")], "mine-told"),
        (vec![("properties.group.id", "ours")], "ours"),
    ] {
        let source = broker.source("told", &options);
        source.committed(&[("0".into(), Offset(0)), ("1".into(), Offset(7))]);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.address()).set("group.id", group);
        let watcher: BaseConsumer = config.create().unwrap();
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition("told", 1);
        let started = Instant::now();
        loop {
            let told = watcher.committed_offsets(wanted.clone(), PATIENCE).unwrap();
            if told.elements()[0].offset() == rdkafka::Offset::Offset(7) {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "group {group}: {told:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        // And a reader begins where it is told all the same.
        let mut reader = source.open("1", 1, Offset(0), &[0]).unwrap();
        assert_eq!(read_to(reader.as_mut(), 10).0, (0..10).collect::<Vec<_>>());
    }
}

#[test]
fn hands_settings_to_the_client() {
    let broker = Broker::shared();
    broker.topic("settings", 1);
    let producer = broker.producer(&[("transactional.id", "settings")]);
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    send(&producer, "settings", 0, numbers(0..3));
    producer.abort_transaction(PATIENCE).unwrap();
    let committed = broker.source("settings", &[]);
    assert_eq!(read_to(committed.open("0", 0, Offset(0), &[0]).unwrap().as_mut(), 4).0, [0; 0]);
    let dirty = broker.source("settings", &[("properties.isolation.level", "read_uncommitted")]);
    assert_eq!(read_to(dirty.open("0", 0, Offset(0), &[0]).unwrap().as_mut(), 4).0, [0, 1, 2]);
}

/// What an earlier reader of the partition had fetched is not mistaken for what a new one asks for.
#[test]
fn begins_before_what_an_earlier_reader_had_fetched() {
    let broker = Broker::shared();
    broker.topic("again", 1);
    send(&broker.producer(&[]), "again", 0, numbers(0..5000));
    let source = broker.source("again", &[]);
    for from in [4000, 10, 2500, 0] {
        let mut reader = source.open("0", 0, Offset(from), &[0]).unwrap();
        let started = Instant::now();
        let first = loop {
            assert!(started.elapsed() < PATIENCE);
            if let Read::Records(records) = reader.read(3, Duration::from_millis(50)).unwrap() {
                break records.batch.column(0).as_primitive::<Int64Type>().value(0);
            }
        };
        assert_eq!(first, from);
    }
    // Larger records than a read takes come one after the other.
    broker.topic("large", 1);
    let producer = broker.producer(&[("message.max.bytes", "1000000")]);
    let pad = "x".repeat(900_000);
    send(&producer, "large", 0, (0..60).map(|n| format!("{{\"n\":{n},\"pad\":\"{pad}\"}}")));
    let source = broker.source("large", &[]);
    let mut reader = source.open("0", 0, Offset(0), &[0]).unwrap();
    let (mut seen, started) = (Vec::new(), Instant::now());
    while seen.len() < 60 {
        assert!(started.elapsed() < PATIENCE);
        if let Read::Records(records) = reader.read(8192, Duration::from_millis(50)).unwrap() {
            assert!(records.bytes < 18 << 20, "{} bytes in one read", records.bytes);
            assert_eq!(records.next.0, (seen.len() + records.records) as i64);
            seen.extend_from_slice(records.batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    assert_eq!(seen, (0..60).collect::<Vec<_>>());
}

#[test]
fn sets_bad_records_aside() {
    let broker = Broker::shared();
    broker.topic("bad", 1);
    let producer = broker.producer(&[]);
    let values = ["{\"n\":1}", "{\"n\":\"x\"}", "not json", "{\"n\":2}"];
    send(&producer, "bad", 0, values.iter().map(|v| v.to_string()));
    producer.send(BaseRecord::<str, str>::to("bad").partition(0).key("tombstone")).map_err(|e| e.0).unwrap();
    producer.flush(PATIENCE).unwrap();
    let source = broker.source("bad", &[]);
    let mut reader = source.open("0", 0, Offset(0), &[0]).unwrap();
    let (good, errors, next) = read_to(reader.as_mut(), 5);
    assert_eq!((good, next), (vec![1, 2], 5));
    let errors: Vec<_> = errors
        .iter()
        .map(|e| (e.offset.unwrap(), e.sqlstate.as_str(), e.raw.as_deref().map(String::from_utf8_lossy)))
        .collect();
    assert_eq!(
        errors,
        [(1, "22P02", Some("{\"n\":\"x\"}".into())), (2, "22P02", Some("not json".into())), (4, "22P02", None)]
    );
}

#[test]
fn includes_what_stands_outside_the_value() {
    let broker = Broker::shared();
    broker.topic("parts", 2);
    let producer = broker.producer(&[]);
    let headers = OwnedHeaders::new().insert(Header { key: "trace", value: Some("abc") });
    let record =
        BaseRecord::<str, str>::to("parts").partition(1).key("k").payload("{\"n\":7}").timestamp(1_767_225_600_123);
    producer.send(record.headers(headers)).map_err(|e| e.0).unwrap();
    producer.flush(PATIENCE).unwrap();
    let options = [
        ("include.key", "k"),
        ("include.partition", "p"),
        ("include.offset", "o"),
        ("include.timestamp", "t"),
        ("include.header.trace", "h"),
    ];
    let spec = Connectors.prepare(&broker.spec("parts", &options)).unwrap();
    let names: Vec<&str> = spec.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["n", "word", "k", "p", "o", "t", "h"]);
    let source = Connectors.open(&spec).unwrap();
    let mut reader = source.open("1", 0, Offset(0), &[0, 2, 3, 4, 5, 6]).unwrap();
    let started = Instant::now();
    let batch = loop {
        assert!(started.elapsed() < PATIENCE);
        if let Read::Records(records) = reader.read(10, Duration::from_millis(50)).unwrap() {
            break records.batch.data().clone();
        }
    };
    let text = arrow::util::pretty::pretty_format_batches(&[batch]).unwrap().to_string();
    assert!(text.contains("| 7 | 6b | 1 | 0 | 2026-01-01T00:00:00.123Z | 616263 |"), "{text}");
}

#[test]
fn reads_what_transactions_committed_and_ends_behind_their_markers() {
    let broker = Broker::shared();
    broker.topic("transactions", 1);
    let producer = broker.producer(&[("transactional.id", "test")]);
    producer.init_transactions(PATIENCE).unwrap();
    for (range, commit) in [(0..3, true), (3..6, false), (6..7, true), (7..9, false)] {
        producer.begin_transaction().unwrap();
        send(&producer, "transactions", 0, numbers(range));
        if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    }
    // Nine records and four markers; the last four offsets never arrive.
    let source = broker.source("transactions", &[]);
    let end = source.end("0").unwrap().unwrap().0;
    assert_eq!(end, 13);
    let mut reader = source.open("0", 0, Offset(0), &[0]).unwrap();
    assert_eq!(read_to(reader.as_mut(), end), (vec![0, 1, 2, 6], vec![], 13));
    drop(reader);
    // Begun again among the markers.
    let mut reader = source.open("0", 0, Offset(10), &[0]).unwrap();
    assert_eq!(read_to(reader.as_mut(), end), (vec![], vec![], 13));
    // An open transaction holds back what comes after it.
    producer.begin_transaction().unwrap();
    send(&producer, "transactions", 0, numbers(20..22));
    assert_eq!(source.end("0").unwrap().unwrap().0, 13);
    assert!(matches!(reader.read(10, Duration::from_millis(300)).unwrap(), Read::Idle { next: Offset(13) }));
    producer.commit_transaction(PATIENCE).unwrap();
    assert_eq!(read_to(reader.as_mut(), 16), (vec![20, 21], vec![], 16));
}

#[test]
fn begins_where_it_is_told_and_finds_new_partitions() {
    let broker = Broker::shared();
    broker.topic("modes", 2);
    let producer = broker.producer(&[]);
    for (n, at) in [(0, 1000), (1, 2000), (2, 3000)] {
        let value = format!("{{\"n\":{n}}}");
        let record = BaseRecord::<str, str>::to("modes").partition(0).payload(&value).timestamp(at);
        producer.send(record).map_err(|e| e.0).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let starts = |source: &dyn Source| source.splits().unwrap().iter().map(|s| s.start.0).collect::<Vec<_>>();
    assert_eq!(starts(broker.source("modes", &[]).as_ref()), [0, 0]);
    let by_time = broker.source("modes", &[("scan.startup.timestamp.millis", "1500")]);
    assert_eq!(starts(by_time.as_ref()), [1, 0]);

    // What `latest` means is fixed when the source is created.
    let latest = Connectors.prepare(&broker.spec("modes", &[("scan.startup.mode", "latest")])).unwrap();
    assert!(latest.options.contains(&("scan.startup.offsets".into(), "0:3,1:0".into())), "{:?}", latest.options);
    send(&producer, "modes", 0, numbers(3..4));
    broker.add_partitions("modes", 3);
    let fresh = broker.producer(&[]);
    send(&fresh, "modes", 2, numbers(100..101));
    let source = Connectors.open(&latest).unwrap();
    assert_eq!(starts(source.as_ref()), [3, 0, 0]);
    let mut old = source.open("0", 0, Offset(3), &[0]).unwrap();
    assert_eq!(read_to(old.as_mut(), 4).0, [3]);
    let mut new = source.open("2", 2, Offset(0), &[0]).unwrap();
    assert_eq!(read_to(new.as_mut(), 1).0, [100]);
}

#[test]
fn serves_several_readers_of_one_partition() {
    let broker = Broker::shared();
    broker.topic("readers", 1);
    send(&broker.producer(&[]), "readers", 0, numbers(0..100));
    let source = broker.source("readers", &[]);
    let mut first = source.open("0", 0, Offset(0), &[0]).unwrap();
    let mut second = source.open("0", 0, Offset(40), &[0]).unwrap();
    let mut third = source.open("0", 0, Offset(70), &[0]).unwrap();
    assert_eq!(read_to(third.as_mut(), 100).0, (70..100).collect::<Vec<_>>());
    assert_eq!(read_to(first.as_mut(), 100).0, (0..100).collect::<Vec<_>>());
    assert_eq!(read_to(second.as_mut(), 100).0, (40..100).collect::<Vec<_>>());
    drop(first);
    let mut again = source.open("0", 0, Offset(99), &[0]).unwrap();
    assert_eq!(read_to(again.as_mut(), 100).0, [99]);
}

#[test]
fn says_what_is_not_there() {
    let broker = Broker::shared();
    let error = Connectors.prepare(&broker.spec("nowhere", &[])).unwrap_err();
    assert_eq!(error.to_string(), "Kafka topic \"nowhere\" does not exist");

    broker.topic("short", 1);
    send(&broker.producer(&[]), "short", 0, numbers(0..3));
    let source = broker.source("short", &[]);
    let mut reader = source.open("0", 0, Offset(100), &[0]).unwrap();
    let started = Instant::now();
    let error = loop {
        assert!(started.elapsed() < PATIENCE);
        if let Err(error) = reader.read(10, Duration::from_millis(50)) {
            break error;
        }
    };
    assert!(matches!(&error, Error::Failed(text) if text.contains("offset 100")), "{error}");
}

#[test]
fn outlives_its_broker() {
    let broker = Broker::start();
    broker.topic("outlives", 2);
    send(&broker.producer(&[]), "outlives", 0, numbers(0..10));
    let source = broker.source("outlives", &[]);
    let mut reader = source.open("0", 0, Offset(0), &[0]).unwrap();
    let mut idle = source.open("1", 1, Offset(0), &[0]).unwrap();
    assert_eq!(read_to(reader.as_mut(), 10).0, (0..10).collect::<Vec<_>>());
    assert!(matches!(idle.read(10, Duration::from_millis(500)).unwrap(), Read::Idle { next: Offset(0) }));

    broker.script(&["stop"]);
    let started = Instant::now();
    let error = loop {
        assert!(started.elapsed() < PATIENCE);
        if let Err(error) = reader.read(10, Duration::from_millis(50)) {
            break error;
        }
    };
    assert!(matches!(&error, Error::Unavailable(text) if text.contains(&broker.address())), "{error}");
    assert!(source.end("0").is_err());

    // As the engine does it: open again after a pause, until it works.
    let restarted = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let started = Instant::now();
            let mut values = Vec::new();
            drop(reader);
            while values.len() < 5 && started.elapsed() < PATIENCE {
                let mut reader = source.open("0", 0, Offset(10 + values.len() as i64), &[0]).unwrap();
                while let Ok(read) = reader.read(10, Duration::from_millis(50)) {
                    if let Read::Records(records) = read {
                        values.extend_from_slice(records.batch.column(0).as_primitive::<Int64Type>().values());
                    }
                    if values.len() >= 5 || started.elapsed() > PATIENCE {
                        break;
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            values
        });
        broker.script(&["start"]);
        send(&broker.producer(&[]), "outlives", 0, numbers(10..15));
        waiting.join().unwrap()
    });
    assert_eq!(restarted, (10..15).collect::<Vec<_>>());
    // The partition without records is well again too.
    let started = Instant::now();
    drop(idle);
    loop {
        assert!(started.elapsed() < PATIENCE);
        let mut idle = source.open("1", 1, Offset(0), &[0]).unwrap();
        if (0..5).all(|_| idle.read(10, Duration::from_millis(300)).is_ok()) {
            break;
        }
    }
}

/// `KAFKA_SPEED_RECORDS=2000000 cargo test --release -p connectors --test kafka kafka_speed -- --nocapture` on a quiet
/// machine.
#[test]
fn kafka_speed() {
    let broker = Broker::shared();
    broker.topic("speed", 2);
    let producer = broker.producer(&[("queue.buffering.max.messages", "1000000"), ("batch.size", "131072")]);
    let count: usize = std::env::var("KAFKA_SPEED_RECORDS").map_or(50_000, |n| n.parse().unwrap());
    let (pad, url) = ("x".repeat(70), "https://www.nexmark.com/abcde/fghij/klmno/item.htm?query=1");
    for n in 0..count {
        let value = format!(
            "{{\"n\":{n},\"bidder\":{},\"price\":{},\"channel\":\"Google\",\"url\":\"{url}&channel_id=123456789\",\
             \"dateTime\":\"2026-01-01 00:00:00.123\",\"extra\":\"{pad}\",\"word\":\"w\"}}",
            n % 311,
            n * 7
        );
        let record = || BaseRecord::<str, str>::to("speed").partition((n % 2) as i32).payload(&value);
        while producer.send(record()).is_err() {
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(PATIENCE).unwrap();
    let source = broker.source("speed", &[]);
    let mut readers = ["0", "1"].map(|split| source.open(split, 0, Offset(0), &[0, 1]).unwrap());
    // Connecting takes its time once.
    let opened = Instant::now();
    while matches!(readers[0].read(1, Duration::from_millis(10)).unwrap(), Read::Idle { .. }) {}
    let (started, mut rows) = (Instant::now(), 1);
    while rows < count {
        for reader in &mut readers {
            if let Read::Records(records) = reader.read(8192, Duration::from_millis(1)).unwrap() {
                rows += records.batch.num_rows();
            }
        }
        assert!(started.elapsed() < PATIENCE);
    }
    println!("{:?} to the first record", started - opened);
    println!("{:.3} µs/record", started.elapsed().as_secs_f64() * 1e6 / count as f64);

    // And how long a record takes on a quiet topic, the producer's part included.
    broker.topic("latency", 1);
    let producer = broker.producer(&[("linger.ms", "0")]);
    let mut reader = broker.source("latency", &[]).open("0", 0, Offset(0), &[0]).unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        std::thread::sleep(Duration::from_millis(7));
        let started = Instant::now();
        producer.send(BaseRecord::<str, str>::to("latency").payload("{\"n\":1}")).map_err(|e| e.0).unwrap();
        while !matches!(reader.read(10, Duration::from_millis(100)).unwrap(), Read::Records(_)) {
            assert!(started.elapsed() < PATIENCE);
        }
        if n >= 10 {
            times.push(started.elapsed());
        }
    }
    times.sort();
    println!("a record takes {:?}, at most {:?}", times[times.len() / 2], times.last());
}
