//! Apache Kafka: every partition of a topic is a split, a record's offset is its offset.
//!
//! Where a reader stands is the engine's business: it says where to begin, and offsets go to the broker only so that
//! people can watch the lag (`group.id`). No consumer group is joined and nothing is rebalanced.
//!
//! All readers of a source share a client (`kafka/client.rs`), so a topic of a hundred partitions is one connection to
//! each broker; each takes records from the queue of its partition (`kafka/queue.rs`). A second reader of the same
//! partition, as a new view that catches up, gets a second client.
//!
//! Transactions are read committed. A partition may end in records of aborted transactions and in control markers,
//! which never arrive: a reader's position, not its last record, tells that the end is reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use streaming::error::{Error, Result};
use streaming::source::{Offset, Source, SourceSpec, Split};

use crate::decoding::{Decoding, INCLUDE};
use crate::options::{OptionDoc, Options, invalid};
use crate::transport::{Transport, TransportReader, Wanted};
use crate::{Connector, OPTIONS as COMMON, formats};

mod client;
mod queue;
mod reader;
pub mod sink;

use client::Clients;

/// The connector.
pub struct Kafka;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc { name: "topic", default: "", doc: "the topic; required" },
    OptionDoc {
        name: "properties.bootstrap.server",
        default: "",
        doc: "`host:port` of one or more brokers, with commas; required (`properties.bootstrap.servers` is the same)",
    },
    OptionDoc {
        name: "scan.startup.mode",
        default: "earliest",
        doc: "where to begin: `earliest`, `latest` (what comes after the source is created) or `timestamp`",
    },
    OptionDoc {
        name: "scan.startup.timestamp.millis",
        default: "",
        doc: "begin at the first record that is not older, in milliseconds since 1970",
    },
    OptionDoc {
        name: "scan.startup.offsets",
        default: "",
        doc: "begin at these offsets, `0:120,1:90`; partitions that are not named begin at their beginning. \
              `latest` and `timestamp` are kept as this",
    },
    OptionDoc { name: "discovery.interval", default: "5s", doc: "how often to look for new partitions" },
    OptionDoc {
        name: "group.id.prefix",
        default: "",
        doc: "begin of the consumer group's name that offsets are committed to, for monitoring only",
    },
    OptionDoc { name: "properties.sync.call.timeout", default: "5s", doc: "how long to wait for a broker's answer" },
    OptionDoc {
        name: "properties.*",
        default: "",
        doc: "any setting of librdkafka's consumer: `properties.security.protocol`, `properties.sasl.mechanism`, \
              `properties.ssl.ca.location`, `properties.group.id`, `properties.fetch.max.bytes`, ...",
    },
];

/// Settings that the reader depends on.
const FORCED: &[(&str, &str)] = &[
    ("enable.partition.eof", "true"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // Records that are gone are an error, not a silent jump.
    ("auto.offset.reset", "error"),
];

/// Settings that a user may change.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "headwater"),
    ("isolation.level", "read_committed"),
    // Once its queue is full, librdkafka waits this long before it fetches again. Its default is a second, in which
    // the queue of a fast reader runs empty.
    ("fetch.queue.backoff.ms", "5"),
    // How long a broker holds a fetch that finds nothing; an arriving record ends it at once. A reader that is opened
    // waits for the fetch that is under way.
    ("fetch.wait.max.ms", "50"),
    ("fetch.error.backoff.ms", "100"),
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    ("socket.keepalive.enable", "true"),
    ("topic.metadata.refresh.interval.ms", "30000"),
    ("check.crcs", "true"),
];

/// Memory for records that are fetched and not yet read, over all partitions of a client.
const QUEUED_KBYTES: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Startup {
    Earliest,
    Latest,
    Timestamp,
}

/// What the options say.
#[derive(Debug)]
struct Settings {
    brokers: String,
    topic: String,
    timeout: Duration,
    discovery: Duration,
    properties: Vec<(String, String)>,
}

impl Settings {
    fn new(options: &Options) -> Result<Settings> {
        let brokers = brokers(options)?;
        let mut properties = Vec::new();
        for (name, value) in options.with_prefix("properties.") {
            if matches!(name, "bootstrap.server" | "bootstrap.servers" | "sync.call.timeout") {
                continue;
            }
            if let Some((_, forced)) = FORCED.iter().find(|(forced, _)| *forced == name) {
                if *forced == value {
                    continue;
                }
                return Err(invalid(format!("option \"properties.{name}\" can only be {forced}")));
            }
            properties.push((name.to_string(), value.to_string()));
        }
        Ok(Settings {
            brokers,
            topic: options.required("topic")?.to_string(),
            timeout: options.duration("properties.sync.call.timeout", Duration::from_secs(5))?,
            discovery: options.duration("discovery.interval", Duration::from_secs(5))?.max(Duration::from_millis(50)),
            properties: {
                let named = properties.iter().any(|(name, _)| name == "group.id");
                if !named {
                    let prefix = options.get("group.id.prefix").unwrap_or("headwater");
                    let topic = options.required("topic")?;
                    properties.push(("group.id".into(), format!("{prefix}-{topic}")));
                }
                properties
            },
        })
    }

    /// librdkafka's settings for a client of a topic with `partitions`.
    fn client_config(&self, partitions: usize) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        let queued = (QUEUED_KBYTES / partitions.max(1)).clamp(1024, QUEUED_KBYTES);
        config.set("queued.max.messages.kbytes", queued.to_string());
        for (name, value) in DEFAULTS {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        for (name, value) in FORCED {
            config.set(*name, *value);
        }
        config
    }
}

/// Where the brokers are, under one of the two names that people use.
fn brokers(options: &Options) -> Result<String> {
    let brokers = match options.get("properties.bootstrap.servers") {
        Some(brokers) if options.get("properties.bootstrap.server").is_none() => brokers,
        _ => options.required("properties.bootstrap.server")?,
    };
    Ok(brokers.to_string())
}

fn options(spec: &SourceSpec) -> Result<Options> {
    Options::new("connector \"kafka\"", &spec.options, &[COMMON, OPTIONS, INCLUDE])
}

fn startup(options: &Options) -> Result<Startup> {
    let modes = [("earliest", Startup::Earliest), ("latest", Startup::Latest), ("timestamp", Startup::Timestamp)];
    let given = options.choice("scan.startup.mode", &modes)?;
    let has_timestamp = options.get("scan.startup.timestamp.millis").is_some();
    match (options.get("scan.startup.mode"), has_timestamp) {
        (None, true) => Ok(Startup::Timestamp),
        (Some(_), false) if given == Startup::Timestamp => {
            Err(invalid("scan.startup.mode timestamp needs the option \"scan.startup.timestamp.millis\""))
        }
        _ => Ok(given),
    }
}

fn parse_offsets(options: &Options) -> Result<Option<BTreeMap<i32, i64>>> {
    let Some(text) = options.get("scan.startup.offsets") else { return Ok(None) };
    let pair = |pair: &str| {
        let (partition, offset) = pair.trim().split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok().filter(|offset: &i64| *offset >= 0)?))
    };
    let offsets: Option<_> = text.split(',').filter(|p| !p.trim().is_empty()).map(pair).collect();
    offsets.map(Some).ok_or_else(|| options.bad("scan.startup.offsets", "a list as 0:120,1:90"))
}

impl Connector for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn fix(&self, spec: &SourceSpec) -> Result<SourceSpec> {
        let options = options(spec)?;
        let mode = startup(&options)?;
        if options.get("scan.startup.offsets").is_some() || mode == Startup::Earliest {
            return Ok(spec.clone());
        }
        let starts = starts(&Clients::new(Settings::new(&options)?)?, &options)?;
        let starts: Vec<String> = starts.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
        let mut spec = spec.clone();
        spec.options.push(("scan.startup.offsets".into(), starts.join(",")));
        Ok(spec)
    }

    fn source(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        let options = options(spec)?;
        startup(&options)?;
        let format = formats::open(spec)?;
        let clients = Clients::new(Settings::new(&options)?)?;
        let starts = starts(&clients, &options)?;
        let transport = KafkaTransport { clients, starts, splits: Mutex::default() };
        Ok(Arc::new(Decoding::new(transport, format, spec)?))
    }
}

/// Where partitions begin; those that are not here begin at their beginning.
fn starts(clients: &Clients, options: &Options) -> Result<BTreeMap<i32, i64>> {
    if let Some(offsets) = parse_offsets(options)? {
        return Ok(offsets);
    }
    match startup(options)? {
        Startup::Earliest => Ok(BTreeMap::new()),
        Startup::Latest => clients.partitions()?.into_iter().map(|p| Ok((p, clients.end(p)?))).collect(),
        Startup::Timestamp => clients.offsets_at(options.number("scan.startup.timestamp.millis", 0)?),
    }
}

struct KafkaTransport {
    clients: Clients,
    starts: BTreeMap<i32, i64>,
    /// Partitions seen, so that a broker that forgets one does not hide it.
    splits: Mutex<BTreeMap<i32, i64>>,
}

fn partition(split: &str) -> Result<i32> {
    split.parse().map_err(|_| Error::NotFound(format!("there is no partition \"{split}\"")))
}

impl Transport for KafkaTransport {
    fn splits(&self) -> Result<Vec<Split>> {
        let found = self.clients.partitions()?;
        let mut splits = self.splits.lock();
        for partition in found {
            splits.entry(partition).or_insert(self.starts.get(&partition).copied().unwrap_or(0));
        }
        Ok(splits.iter().map(|(partition, start)| Split { id: partition.to_string(), start: Offset(*start) }).collect())
    }

    fn discovery_interval(&self) -> Option<Duration> {
        Some(self.clients.settings().discovery)
    }

    fn end(&self, split: &str) -> Result<Option<Offset>> {
        Ok(Some(Offset(self.clients.end(partition(split)?)?)))
    }

    fn committed(&self, offsets: &[(String, Offset)]) {
        let offsets = offsets.iter().filter_map(|(split, offset)| Some((partition(split).ok()?, offset.0)));
        self.clients.commit(offsets);
    }

    fn open(&self, split: &str, from: Offset, wanted: Wanted) -> Result<Box<dyn TransportReader>> {
        let partition = partition(split)?;
        let client = self.clients.take(partition)?;
        Ok(Box::new(reader::KafkaReader::open(client, partition, from.0, wanted)?))
    }
}

#[cfg(test)]
mod tests {
    use streaming::source::Sources as _;

    use super::*;
    use crate::Connectors;

    fn spec(given: &[(&str, &str)]) -> SourceSpec {
        let mut options = vec![("connector".to_string(), "kafka".to_string())];
        options.extend(given.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        let columns = vec![storage::Column::new("a", storage::SqlType::Int)];
        SourceSpec { options, format: "plain".into(), encode: "json".into(), encode_options: vec![], columns }
    }

    fn error(given: &[(&str, &str)]) -> String {
        Connectors.prepare(&spec(given)).err().unwrap().to_string()
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        assert_eq!(error(&[("topic", "t")]), "connector \"kafka\" needs the option \"properties.bootstrap.server\"");
        let brokers = ("properties.bootstrap.server", "127.0.0.1:1");
        assert_eq!(error(&[brokers]), "connector \"kafka\" needs the option \"topic\"");
        assert_eq!(
            error(&[brokers, ("topic", "t"), ("properties.enable.auto.commit", "true")]),
            "option \"properties.enable.auto.commit\" can only be false"
        );
        assert_eq!(
            error(&[brokers, ("topic", "t"), ("scan.startup.mode", "timestamp")]),
            "scan.startup.mode timestamp needs the option \"scan.startup.timestamp.millis\""
        );
        let message = error(&[brokers, ("topic", "t"), ("properties.no.such.setting", "1")]);
        assert!(message.contains("no.such.setting"), "{message}");
    }

    #[test]
    fn says_that_no_broker_answers() {
        let started = std::time::Instant::now();
        let message = error(&[("topic", "t"), ("properties.bootstrap.server", "127.0.0.1:1")]);
        assert!(message.starts_with("could not reach the Kafka broker at \"127.0.0.1:1\""), "{message}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        // A server whose broker is away starts all the same.
        Connectors.open(&spec(&[("topic", "t"), ("properties.bootstrap.server", "127.0.0.1:1")])).unwrap();
    }
}
