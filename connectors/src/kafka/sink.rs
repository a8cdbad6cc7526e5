//! Changes into a topic, each once for who reads committed records.
//!
//! ```text
//!  begin ─▶ records of the topic ─▶ position, into the progress topic of the sink ─▶ commit
//! ```
//!
//! The transactional id is the sink's own, so a new connection fences the one before it and ends what that left open. Only
//! then is the position read: it is the last committed record of the progress topic, a compacted topic of one partition that
//! nobody else writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::util::Timeout;
use storage::{Batch, failpoint};
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::sink::{
    Changes, Delivered, Delivery, OnError, Position, REFUSED_MAX, Refused, Sink, SinkSpec, SinkType,
};

use crate::encoding::Encoder;
use crate::options::{OptionDoc, Options, invalid};
use crate::sinks::{self, Change, SinkConnector, changes, millis};

/// The connector.
pub struct KafkaSinks;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc { name: "topic", default: "", doc: "the topic; required" },
    OptionDoc {
        name: "properties.bootstrap.server",
        default: "",
        doc: "`host:port` of one or more brokers, with commas; required (`properties.bootstrap.servers` is the same)",
    },
    OptionDoc {
        name: "create_topic_if_not_exists",
        default: "false",
        doc: "make the topic if it is not there, whatever the broker does by itself",
    },
    OptionDoc { name: "topic.partitions", default: "1", doc: "its partitions then" },
    OptionDoc {
        name: "topic.replication.factor",
        default: "",
        doc: "its replicas then; the broker's default if left out",
    },
    OptionDoc {
        name: "topic.cleanup.policy",
        default: "",
        doc: "its `cleanup.policy` then: `compact` suits an upsert sink; the broker's default if left out",
    },
    OptionDoc {
        name: "progress.topic",
        default: "headwater.sink.<id>",
        doc: "the topic that holds how far the sink is; made with the sink, and removed with it",
    },
    OptionDoc { name: "properties.sync.call.timeout", default: "5s", doc: "how long to wait for a broker's answer" },
    OptionDoc {
        name: "properties.*",
        default: "",
        doc: "any setting of librdkafka's producer: `properties.compression.type` (lz4 if left out), `properties.linger.ms`, \
              `properties.batch.size`, `properties.security.protocol`, `properties.transaction.timeout.ms`, ...",
    },
];

/// Settings that exactly once depends on.
const FORCED: &[(&str, &str)] = &[("enable.idempotence", "true"), ("acks", "all")];

/// Settings that a user may change.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "headwater"),
    ("compression.type", "lz4"),
    ("linger.ms", "5"),
    // As Java's producers do it, so that a key has one partition whoever writes it.
    ("partitioner", "murmur2_random"),
    ("transaction.timeout.ms", "300000"),
    ("message.timeout.ms", "60000"),
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    ("socket.keepalive.enable", "true"),
    ("topic.metadata.refresh.interval.ms", "30000"),
];

/// The producer's own limit for a record.
const MESSAGE_BYTES_MAX: &str = "message.max.bytes";
/// What librdkafka collects for one request unless it is told otherwise.
const BATCH_BYTES: usize = 1_000_000;
/// What the headers of a batch and of its one record take.
const RECORD_OVERHEAD_BYTES: usize = 128;
/// How long a commit may take, and a record that finds the producer's queue full.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Records at the end of the progress topic that are looked at first.
const PROGRESS_TAIL: i64 = 64;

impl SinkConnector for KafkaSinks {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn sink(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        self.group(std::slice::from_ref(spec), functions)
    }

    fn group(&self, specs: &[SinkSpec], functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        let targets: Result<Vec<Target>> = (specs.iter())
            .map(|spec| Target::new(spec, &sinks::options(spec, self)?, Encoder::new(spec, functions.clone())?))
            .collect();
        Ok(Arc::new(KafkaSink(targets?.into())))
    }
}

struct Target {
    brokers: String,
    topic: String,
    progress: String,
    create: Option<(i32, i32, Option<String>)>,
    timeout: Duration,
    properties: Vec<(String, String)>,
    spec: SinkSpec,
    encoder: Encoder,
}

impl Target {
    fn new(spec: &SinkSpec, options: &Options, encoder: Encoder) -> Result<Target> {
        let brokers = super::brokers(options)?;
        let mut properties = Vec::new();
        for (name, value) in options.with_prefix("properties.") {
            match name {
                "bootstrap.server" | "bootstrap.servers" | "sync.call.timeout" => continue,
                "transactional.id" => {
                    return Err(invalid("option \"properties.transactional.id\" is the sink's own"));
                }
                _ => {}
            }
            if FORCED.iter().any(|(forced, only)| *forced == name && *only != value) {
                return Err(invalid(format!("option \"properties.{name}\" contradicts exactly-once delivery")));
            }
            properties.push((name.to_string(), value.to_string()));
        }
        let create = if options.boolean("create_topic_if_not_exists", false)? {
            let partitions: u16 = options.number("topic.partitions", 1)?;
            let replicas: i32 = options.number("topic.replication.factor", -1)?;
            Some((partitions.max(1).into(), replicas, options.get("topic.cleanup.policy").map(str::to_owned)))
        } else {
            None
        };
        let progress =
            options.get("progress.topic").map_or(format!("headwater.sink.{}", spec.progress_id()), str::to_owned);
        let target = Target {
            brokers,
            topic: options.required("topic")?.to_string(),
            progress,
            create,
            timeout: options.duration("properties.sync.call.timeout", Duration::from_secs(5))?,
            properties,
            spec: spec.clone(),
            encoder,
        };
        // What librdkafka does not know is said now.
        target.producer(None)?;
        Ok(target)
    }

    /// Settings of any client: where the brokers are and how to talk to them.
    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", "headwater");
        for (name, value) in &self.properties {
            let connects = ["security.", "sasl.", "ssl.", "socket.", "broker."].iter().any(|p| name.starts_with(p));
            if connects || name == "client.id" {
                config.set(name, value);
            }
        }
        config
    }

    /// The bytes that a record of the topic may have, as the topic says.
    fn record_bytes_max(&self) -> Option<usize> {
        if self.properties.iter().any(|(name, _)| name == MESSAGE_BYTES_MAX) {
            return None;
        }
        let admin: AdminClient<DefaultClientContext> = self.client_config().create().ok()?;
        let options = AdminOptions::new().request_timeout(Some(self.timeout));
        let topic = [ResourceSpecifier::Topic(&self.topic)];
        // Who may not ask has librdkafka's limit.
        let answer = block_on(admin.describe_configs(&topic, &options)).ok()?.ok()?.pop()?.ok()?;
        let value = answer.get("max.message.bytes")?.value.clone()?;
        value.parse().ok()
    }

    /// A producer for records of up to so many bytes, those of the least topic and those of the largest, with what the
    /// protocol adds to one.
    fn producer(&self, record_bytes: Option<(usize, usize)>) -> Result<BaseProducer<Watch>> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        if let Some((least, largest)) = record_bytes {
            // What the broker weighs is a batch: none may be heavier than one record may be.
            config.set(MESSAGE_BYTES_MAX, largest.clamp(1000, 1_000_000_000).to_string());
            config.set("batch.size", least.clamp(1000, BATCH_BYTES).saturating_sub(RECORD_OVERHEAD_BYTES).to_string());
        }
        for (name, value) in DEFAULTS.iter().copied() {
            config.set(name, value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        for (name, value) in FORCED {
            config.set(*name, *value);
        }
        config.set("transactional.id", format!("headwater-{}", self.spec.progress_id()));
        BaseProducer::from_config_and_context(&config, Watch::default()).map_err(|error| match error {
            KafkaError::ClientConfig(_, reason, name, _) => invalid(format!("option \"properties.{name}\": {reason}")),
            other => invalid(format!("Kafka: {other}")),
        })
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        let mut config = self.client_config();
        config
            .set("group.id", format!("headwater-{}", self.spec.progress_id()))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50");
        config.create().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &KafkaError) -> Error {
        Error::Unavailable(format!("Kafka topic \"{}\" at \"{}\": {error}", self.topic, self.brokers))
    }

    /// Whether a topic is there with a leader for each partition; waits a moment for a broker that is starting up.
    fn has_topic(&self, consumer: &BaseConsumer, topic: &str) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(1));
            let late = begun.elapsed() >= self.timeout;
            match metadata {
                Err(_) if late => {
                    let message = format!("could not reach the Kafka broker at \"{}\"", self.brokers);
                    return Err(Error::Unavailable(message));
                }
                Err(_) => {}
                Ok(metadata) => {
                    let found = metadata.topics().iter().find(|t| t.name() == topic);
                    let error = found.and_then(|t| t.error()).map(RDKafkaErrorCode::from);
                    match error {
                        None if found.is_some_and(|t| {
                            !t.partitions().is_empty() && t.partitions().iter().all(|p| p.leader() >= 0)
                        }) =>
                        {
                            return Ok(true);
                        }
                        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                            return Ok(false);
                        }
                        Some(RDKafkaErrorCode::InvalidTopic) => {
                            return Err(invalid(format!("\"{topic}\" cannot be the name of a Kafka topic")));
                        }
                        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                            let message = format!("permission denied for Kafka topic \"{topic}\"");
                            return Err(Error::invalid("42501", message));
                        }
                        _ if late => {
                            return Err(Error::Unavailable(format!("Kafka topic \"{topic}\" has no leader")));
                        }
                        _ => {}
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes a topic and waits until it can be written.
    fn create(&self, consumer: &BaseConsumer, topic: &NewTopic<'_>) -> Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(self.timeout)).request_timeout(Some(self.timeout));
        let admin: AdminClient<DefaultClientContext> =
            self.client_config().create().map_err(|error| self.failed(&error))?;
        let results = block_on(admin.create_topics([topic], &options))?.map_err(|error| self.failed(&error))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, error)) => {
                    let message = format!("Kafka topic \"{}\" cannot be made: {error}", topic.name);
                    return Err(Error::invalid("58000", message));
                }
            }
        }
        let begun = Instant::now();
        while !self.has_topic(consumer, topic.name)? {
            if begun.elapsed() > self.timeout {
                let message = format!("Kafka topic \"{}\" was made and is not there yet", topic.name);
                return Err(Error::Unavailable(message));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn create_progress(&self, consumer: &BaseConsumer) -> Result<()> {
        let topic = NewTopic::new(&self.progress, 1, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "compact")
            .set("segment.ms", "600000")
            .set("min.cleanable.dirty.ratio", "0.01");
        self.create(consumer, &topic)
    }

    /// The last committed position. Whoever wrote before must be fenced.
    fn position(&self, consumer: &BaseConsumer) -> Result<Option<Position>> {
        if !self.has_topic(consumer, &self.progress)? {
            let message = format!("the progress topic \"{}\" of the sink is gone", self.progress);
            return Err(Error::Unavailable(message));
        }
        let ends = consumer.fetch_watermarks(&self.progress, 0, self.timeout);
        let (low, high) = ends.map_err(|error| self.failed(&error))?;
        let mut tail = PROGRESS_TAIL;
        loop {
            let from = (high - tail).max(low);
            let found = self.last_between(consumer, from, high)?;
            if found.is_some() || from == low {
                return Ok(found);
            }
            tail *= 16;
        }
    }

    /// The last position from `from` on.
    fn last_between(&self, consumer: &BaseConsumer, from: i64, high: i64) -> Result<Option<Position>> {
        if from >= high {
            return Ok(None);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.progress, 0, rdkafka::Offset::Offset(from)).map_err(|e| self.failed(&e))?;
        consumer.assign(&list).map_err(|error| self.failed(&error))?;
        let mut last = None;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if message.key() == Some(self.spec.progress_id().as_bytes()) {
                        let text = message.payload().map(String::from_utf8_lossy).unwrap_or_default();
                        last = Some(text.parse()?);
                    }
                }
                // Nobody else writes here, and who did is fenced: this is the end of all there is.
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if heard.elapsed() > self.timeout => return Err(self.failed(&error)),
                None if heard.elapsed() > self.timeout => {
                    let message = format!("Kafka topic \"{}\" cannot be read", self.progress);
                    return Err(Error::Unavailable(message));
                }
                _ => {}
            }
        }
        consumer.unassign().map_err(|error| self.failed(&error))?;
        Ok(last)
    }

    /// Makes the topic if that was asked for, and that of the progress.
    fn prepare(&self) -> Result<()> {
        let consumer = self.consumer()?;
        if !self.has_topic(&consumer, &self.topic)? {
            let Some((partitions, replicas, policy)) = &self.create else {
                let message = format!("Kafka topic \"{}\" does not exist", self.topic);
                return Err(Error::NotFound(format!("{message}\nHINT:  Say create_topic_if_not_exists = 'true'.")));
            };
            let mut topic = NewTopic::new(&self.topic, *partitions, TopicReplication::Fixed(*replicas));
            if let Some(policy) = policy {
                topic = topic.set("cleanup.policy", policy);
            }
            self.create(&consumer, &topic)?;
        }
        self.create_progress(&consumer)
    }
}

/// Waits for an answer of the admin client.
fn block_on<R>(future: impl Future<Output = R>) -> Result<R> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Unavailable(format!("no thread for the admin client: {error}")))?;
    Ok(runtime.block_on(future))
}

/// The topics of a group's sinks, or one: of one cluster.
struct KafkaSink(Arc<[Target]>);

impl Sink for KafkaSink {
    fn prepare(&self) -> Result<()> {
        self.0.iter().try_for_each(Target::prepare)
    }

    fn connect(&self) -> Result<Box<dyn Delivery>> {
        let targets = self.0.clone();
        let target = &targets[0];
        let record_bytes_max: Vec<Option<usize>> = targets.iter().map(Target::record_bytes_max).collect();
        // Each record is weighed by itself; what is sent together is as light as the least topic wants it.
        let least = record_bytes_max.iter().copied().min().flatten();
        let largest = record_bytes_max.iter().copied().max().flatten();
        let producer = target.producer(least.zip(largest))?;
        let failed = |error: KafkaError| target.failed(&error);
        // Fences who was before and ends its transaction, one way or the other.
        producer.init_transactions(target.timeout.max(Duration::from_secs(10))).map_err(failed)?;
        let position = target.position(&target.consumer()?)?;
        Ok(Box::new(Connection { producer, position, targets, record_bytes_max }))
    }

    fn forget(&self) {
        let target = &self.0[0];
        let options = AdminOptions::new().request_timeout(Some(target.timeout));
        let admin: std::result::Result<AdminClient<DefaultClientContext>, _> = target.client_config().create();
        let removed = admin.map(|admin| block_on(admin.delete_topics(&[target.progress.as_str()], &options)));
        if !matches!(removed, Ok(Ok(Ok(_)))) {
            tracing::warn!(topic = target.progress, "the progress topic of a dropped sink could not be removed");
        }
    }
}

/// Keeps why records did not arrive.
#[derive(Default)]
struct Watch {
    refused: Mutex<Option<KafkaError>>,
}

impl ClientContext for Watch {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "kafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", "{error}: {reason}");
    }
}

impl ProducerContext for Watch {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if let Err((error, _)) = result {
            self.refused.lock().get_or_insert_with(|| error.clone());
        }
    }
}

struct Connection {
    producer: BaseProducer<Watch>,
    position: Option<Position>,
    targets: Arc<[Target]>,
    record_bytes_max: Vec<Option<usize>>,
}

/// Whether a record is in the producer's queue, or why it never can be.
type Queued = std::result::Result<(), String>;

impl Connection {
    /// Puts a record into the producer's queue, once there is room.
    fn send(&self, sink: usize, topic: &str, key: Option<&str>, value: Option<&str>) -> Result<Queued> {
        let bytes = key.map_or(0, str::len) + value.map_or(0, str::len);
        if let Some(max) = self.record_bytes_max[sink]
            && bytes + RECORD_OVERHEAD_BYTES > max
        {
            return Ok(Err(format!(
                "a record of {bytes} bytes is too large for the topic: its max.message.bytes is {max}"
            )));
        }
        let begun = Instant::now();
        let mut record = BaseRecord::<str, str>::to(topic);
        record.key = key;
        record.payload = value;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(Ok(())),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                    return Ok(Err(format!("a record of {bytes} bytes is too large: {MESSAGE_BYTES_MAX} is less")));
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if begun.elapsed() < COMMIT_TIMEOUT =>
                {
                    record = back;
                    self.producer.poll(Duration::from_millis(20));
                }
                Err((error, _)) => return Err(self.targets[sink].failed(&error)),
            }
        }
    }

    /// The records of a change.
    fn send_change(&self, sink: usize, batch: &Batch, change: Change, texts: &mut [String; 2]) -> Result<Queued> {
        let target = &self.targets[sink];
        let keyed = !target.spec.key.is_empty();
        let Some(row) = change.after.or(change.before) else { return Ok(Ok(())) };
        let [key, value] = texts;
        key.clear();
        value.clear();
        if keyed {
            target.encoder.key(batch, row, key);
        }
        let record_key = keyed.then_some(key.as_str());
        if target.spec.kind == SinkType::Debezium {
            target.encoder.envelope(batch, change, millis(), value);
            let queued = self.send(sink, &target.topic, record_key, Some(value))?;
            if queued.is_err() || change.after.is_some() {
                return Ok(queued);
            }
            // So that a compacted topic forgets the key.
            return self.send(sink, &target.topic, record_key, None);
        }
        if change.after.is_some() {
            target.encoder.row(batch, row, value);
        }
        self.send(sink, &target.topic, record_key, change.after.map(|_| value.as_str()))
    }

    /// Puts all records into the producer's queue; returns the changes whose records are refused.
    fn send_all(&self, batches: &mut Changes<'_>) -> Result<Vec<Refused>> {
        let mut texts = [String::new(), String::new()];
        let mut refused = Vec::new();
        for (b, batch) in batches.enumerate() {
            let (sink, batch) = batch?;
            let target = &self.targets[sink];
            for change in changes(&batch, &target.spec)? {
                let Err(reason) = self.send_change(sink, &batch, change, &mut texts)? else { continue };
                if target.spec.on_error == OnError::Fail {
                    return Err(Error::Unavailable(format!("Kafka topic \"{}\": {reason}", target.topic)));
                }
                let mut raw = String::new();
                if let Some(row) = change.after.or(change.before) {
                    target.encoder.row(&batch, row, &mut raw);
                }
                let rows = change.before.into_iter().chain(change.after).collect();
                refused.push(Refused { batch: b, rows, raw: raw.into_bytes(), reason, sqlstate: "54000".into() });
                if refused.len() == REFUSED_MAX {
                    return Ok(refused);
                }
            }
            self.producer.poll(Timeout::After(Duration::ZERO));
        }
        Ok(refused)
    }
}

impl Delivery for Connection {
    fn position(&self) -> Option<Position> {
        self.position
    }

    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered> {
        let target = &self.targets[0];
        let failed = |error: KafkaError| target.failed(&error);
        self.producer.begin_transaction().map_err(failed)?;
        let refused = self.send_all(changes)?;
        if !refused.is_empty() {
            // It waits for what was sent, and nobody else would hear of that.
            self.producer.purge(PurgeConfig::default().queue().inflight());
            self.producer.flush(COMMIT_TIMEOUT).map_err(failed)?;
            self.producer.abort_transaction(COMMIT_TIMEOUT).map_err(failed)?;
            // Records of the aborted transaction have failed, which is nothing to tell.
            self.producer.client().context().refused.lock().take();
            return Ok(Delivered::Refused(refused));
        }
        if let Err(reason) =
            self.send(0, &target.progress, Some(target.spec.progress_id()), Some(&until.to_string()))?
        {
            return Err(Error::Unavailable(format!("Kafka topic \"{}\": {reason}", target.progress)));
        }
        failpoint::before("kafka/commit");
        let committed = self.producer.commit_transaction(COMMIT_TIMEOUT);
        failpoint::after("kafka/commit");
        let refused = self.producer.client().context().refused.lock().take();
        committed.map_err(|error| failed(refused.unwrap_or(error)))?;
        Ok(Delivered::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{Plain, spec};

    fn error(options: &[(&str, &str)]) -> String {
        let spec = spec("kafka", SinkType::Upsert, options);
        let sink = KafkaSinks.sink(&spec, Arc::new(Plain));
        sink.and_then(|sink| sink.prepare()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        let brokers = ("properties.bootstrap.server", "127.0.0.1:1");
        let owner = "connector \"kafka\" of a sink needs the option";
        assert_eq!(error(&[("topic", "t")]), format!("{owner} \"properties.bootstrap.server\""));
        assert_eq!(error(&[brokers]), format!("{owner} \"topic\""));
        let with = |option| error(&[brokers, ("topic", "t"), ("properties.sync.call.timeout", "1s"), option]);
        assert!(with(("properties.no.such.setting", "1")).contains("no.such.setting"));
        assert!(with(("properties.acks", "1")).contains("contradicts exactly-once"));
        assert!(with(("properties.transactional.id", "x")).contains("the sink's own"));
        let message = with(("properties.linger.ms", "20"));
        assert_eq!(message, "could not reach the Kafka broker at \"127.0.0.1:1\"");
    }
}
