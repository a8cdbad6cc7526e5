//! The clients of a source: one for all readers, and another for each further reader of the same partition.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use streaming::error::{Error, Result};

use super::Settings;
use crate::options::invalid;

/// How long a topic that nobody knows is asked for again, and how often.
const TOPIC_KNOWN_WITHIN: Duration = Duration::from_secs(3);
const TOPIC_POLL: Duration = Duration::from_millis(100);

/// A librdkafka consumer.
pub(super) type Consumer = BaseConsumer<Watch>;

/// What a client says about its connections.
#[derive(Default)]
pub(super) struct Watch {
    down: AtomicBool,
    reason: Mutex<String>,
}

impl Watch {
    /// A broker answered.
    pub(super) fn answered(&self) {
        if self.down.load(Ordering::Relaxed) {
            self.down.store(false, Ordering::Relaxed);
        }
    }

    /// Whether no broker can be reached since the last answer.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What goes wrong is reported as an error too; here it is detail.
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info => tracing::trace!(target: "kafka", facility, "{message}"),
            _ => tracing::debug!(target: "kafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.down.store(true, Ordering::Relaxed);
        } else {
            *self.reason.lock() = reason.to_string();
        }
        if code == Some(RDKafkaErrorCode::Authentication) {
            self.down.store(true, Ordering::Relaxed);
        }
        tracing::debug!(target: "kafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Watch {}

/// One connection to the brokers.
pub(super) struct Client {
    pub(super) settings: Arc<Settings>,
    pub(super) consumer: Arc<Consumer>,
    /// Partitions that a reader has.
    taken: Mutex<HashSet<i32>>,
    /// Held by the one reader that serves events.
    serving: Mutex<()>,
}

impl Client {
    fn new(settings: &Arc<Settings>, partitions: usize) -> Result<Client> {
        let config = settings.client_config(partitions);
        let consumer = Consumer::from_config_and_context(&config, Watch::default()).map_err(|error| match error {
            KafkaError::ClientConfig(_, reason, name, _) => invalid(format!("option \"properties.{name}\": {reason}")),
            other => invalid(format!("Kafka: {other}")),
        })?;
        Ok(Client {
            settings: settings.clone(),
            consumer: Arc::new(consumer),
            taken: Mutex::default(),
            serving: Mutex::default(),
        })
    }

    /// Handles what the client has to say besides records.
    pub(super) fn serve(&self) {
        let Some(_guard) = self.serving.try_lock() else { return };
        for _ in 0..16 {
            match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(_)) => tracing::error!(target: "kafka", "a record came past the queue of its partition"),
                Some(Err(_)) => {}
            }
        }
    }

    /// What is known about connections.
    pub(super) fn watch(&self) -> &Watch {
        self.consumer.client().context()
    }

    /// The error that no broker answers.
    pub(super) fn unavailable(&self) -> Error {
        let reason = self.watch().reason.lock();
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        Error::Unavailable(format!("could not reach the Kafka broker at \"{}\"{because}", self.settings.brokers))
    }

    /// Gives `partition` back.
    pub(super) fn give_back(&self, partition: i32) {
        self.taken.lock().remove(&partition);
    }
}

/// All clients of a source.
pub(super) struct Clients {
    settings: Arc<Settings>,
    /// Asks for metadata and commits offsets; nobody reads through it.
    asking: Client,
    /// Those that readers have.
    reading: Mutex<Vec<Arc<Client>>>,
    /// How many partitions there were when it was last asked; 0 before.
    partitions: AtomicUsize,
}

impl Clients {
    /// Makes a client and does not wait for a connection: a server starts whether its brokers are there or not.
    pub(super) fn new(settings: Settings) -> Result<Clients> {
        let settings = Arc::new(settings);
        let asking = Client::new(&settings, 1)?;
        Ok(Clients { settings, asking, reading: Mutex::default(), partitions: AtomicUsize::new(0) })
    }

    /// What the options say.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The topic's partitions.
    pub(super) fn partitions(&self) -> Result<Vec<i32>> {
        let partitions = partitions(&self.asking)?;
        self.partitions.store(partitions.len(), Ordering::Relaxed);
        Ok(partitions)
    }

    /// The end of a partition: behind the last record that is not part of an open transaction.
    pub(super) fn end(&self, partition: i32) -> Result<i64> {
        self.asking.serve();
        // Who asks for many partitions shall not wait for each while no broker answers.
        let down = self.asking.watch().is_down();
        let timeout = if down { Duration::from_millis(500) } else { self.settings.timeout };
        match self.asking.consumer.fetch_watermarks(&self.settings.topic, partition, timeout) {
            Ok((_, high)) => {
                self.asking.watch().answered();
                Ok(high)
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// The first offset of each partition whose record is not older than `millis`; its end if there is none.
    pub(super) fn offsets_at(&self, millis: i64) -> Result<BTreeMap<i32, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in self.partitions()? {
            list.add_partition_offset(&self.settings.topic, partition, Offset::Offset(millis))
                .map_err(|error| self.failure(&error))?;
        }
        let found = self.asking.consumer.offsets_for_times(list, self.settings.timeout);
        let found = found.map_err(|error| self.failure(&error))?;
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => Ok((element.partition(), offset)),
            _ => Ok((element.partition(), self.end(element.partition())?)),
        };
        found.elements().iter().map(offset).collect()
    }

    /// Commits offsets; nobody waits for it.
    pub(super) fn commit(&self, offsets: impl Iterator<Item = (i32, i64)>) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let _ = list.add_partition_offset(&self.settings.topic, partition, Offset::Offset(offset));
        }
        self.asking.serve();
        if list.count() > 0
            && let Err(error) = self.asking.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(target: "kafka", "offsets were not committed: {error}");
        }
    }

    /// A client on which nobody reads `partition`; from now on the caller does.
    pub(super) fn take(&self, partition: i32) -> Result<Arc<Client>> {
        if self.partitions.load(Ordering::Relaxed) == 0 {
            // How many there are decides on the memory for each.
            self.partitions()?;
        }
        let mut clients = self.reading.lock();
        // A further client ends with its last reader.
        let mut first = true;
        clients.retain(|client| std::mem::take(&mut first) || !client.taken.lock().is_empty());
        for client in clients.iter() {
            if client.taken.lock().insert(partition) {
                return Ok(client.clone());
            }
        }
        let client = Arc::new(Client::new(&self.settings, self.partitions.load(Ordering::Relaxed))?);
        // Once it knows the leaders, a reader begins at once; otherwise librdkafka looks again after half a second.
        let _ = client.consumer.fetch_metadata(Some(&self.settings.topic), Duration::from_secs(1));
        client.taken.lock().insert(partition);
        clients.push(client.clone());
        Ok(client)
    }

    fn failure(&self, error: &KafkaError) -> Error {
        failure(&self.asking, error)
    }
}

/// The error of a call.
fn failure(client: &Client, error: &KafkaError) -> Error {
    let topic = &client.settings.topic;
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Error::NotFound(format!("Kafka topic \"{topic}\" does not exist"))
        }
        Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown) => client.unavailable(),
        Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut) => client.unavailable(),
        _ => Error::Unavailable(format!("Kafka topic \"{topic}\": {error}")),
    }
}

/// The partitions of the topic. One that was made a moment ago is known to the controller before the brokers hear of it.
fn partitions(client: &Client) -> Result<Vec<i32>> {
    let started = Instant::now();
    loop {
        match known_partitions(client) {
            Err(Error::NotFound(_)) if started.elapsed() < TOPIC_KNOWN_WITHIN => std::thread::sleep(TOPIC_POLL),
            result => return result,
        }
    }
}

fn known_partitions(client: &Client) -> Result<Vec<i32>> {
    let (settings, started) = (&client.settings, Instant::now());
    let metadata = loop {
        // In short steps, so that a broker that refuses the connection is noticed early, and one that is starting up
        // gets a moment.
        let left = settings.timeout.saturating_sub(started.elapsed()).min(Duration::from_secs(1));
        match client.consumer.fetch_metadata(Some(&settings.topic), left.max(Duration::from_millis(10))) {
            Ok(metadata) => break metadata,
            Err(error) => {
                client.serve();
                let refused = client.watch().is_down() && started.elapsed() >= Duration::from_secs(2);
                if refused || started.elapsed() >= settings.timeout {
                    return Err(failure(client, &error));
                }
            }
        }
    };
    client.watch().answered();
    let topic = metadata.topics().iter().find(|topic| topic.name() == settings.topic);
    let missing = || Error::NotFound(format!("Kafka topic \"{}\" does not exist", settings.topic));
    let topic = topic.ok_or_else(missing)?;
    match topic.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Err(missing()),
        Some(RDKafkaErrorCode::InvalidTopic) => {
            return Err(invalid(format!("\"{}\" cannot be the name of a Kafka topic", settings.topic)));
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            let message = format!("permission denied for Kafka topic \"{}\"", settings.topic);
            return Err(Error::invalid("42501", message));
        }
        Some(other) => return Err(Error::Unavailable(format!("Kafka topic \"{}\": {other}", settings.topic))),
    }
    let mut partitions: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
    partitions.sort_unstable();
    if partitions.is_empty() { Err(missing()) } else { Ok(partitions) }
}

/// librdkafka's number for no error.
pub(super) const NO_ERROR: Code = Code::RD_KAFKA_RESP_ERR_NO_ERROR;
