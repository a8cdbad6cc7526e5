//! Reads one partition.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use streaming::error::{Error, Result};
use streaming::source::Offset;

use super::client::Client;
use super::queue::{Message, PartitionQueue};
use crate::transport::{Arrival, RawHeader, RawRecord, RawRecords, TransportReader, Wanted};

/// Records that are taken from the queue at once.
const BATCH: usize = 1024;
/// Bytes after which a read is enough. One record more, of 2 GB at most, still fits the 32 bits that places in
/// [`RawRecords`] have.
const BYTES_MAX: usize = 16 << 20;
/// How long a reader that was just opened waits for an answer before it says that no broker answers.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct KafkaReader {
    client: Arc<Client>,
    queue: PartitionQueue,
    partition: i32,
    wanted: Wanted,
    next: i64,
    opened: Instant,
    /// Whether a record or the end has come.
    answered: bool,
    /// What to report at the next read.
    failure: Option<Error>,
}

impl KafkaReader {
    /// Reads `partition` through `client`, of which the caller has taken it.
    pub(super) fn open(client: Arc<Client>, partition: i32, from: i64, wanted: Wanted) -> Result<KafkaReader> {
        let topic = &client.settings.topic;
        let queue = PartitionQueue::open(&client.consumer, topic, partition);
        let Some(queue) = queue else {
            client.give_back(partition);
            return Err(Error::NotFound(format!("Kafka topic \"{topic}\" has no partition {partition}")));
        };
        // From here on, dropping the reader gives the partition back.
        let mut reader = KafkaReader {
            client: client.clone(),
            queue,
            partition,
            wanted,
            next: from,
            opened: Instant::now(),
            answered: false,
            failure: None,
        };
        // Who has read nothing yet begins with the oldest record that is still there.
        let start = if from == 0 { KafkaOffset::Beginning } else { KafkaOffset::Offset(from) };
        let assigned = list(&client, partition, start).and_then(|list| client.consumer.incremental_assign(&list));
        if let Err(error) = assigned {
            reader.failure = Some(Error::Unavailable(format!("Kafka topic \"{topic}\": {error}")));
        }
        Ok(reader)
    }

    /// The error that a message stands for, if it is one.
    fn failure(&self, error: Code, text: &str) -> Error {
        let topic = &self.client.settings.topic;
        match error {
            Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET | Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
                Error::Failed(format!(
                    "partition {} of Kafka topic \"{topic}\" no longer has the record at offset {}: it was deleted \
                     before it was read (retention), or the topic was created anew",
                    self.partition, self.next
                ))
            }
            _ => Error::Unavailable(format!("partition {} of Kafka topic \"{topic}\": {text}", self.partition)),
        }
    }
}

fn list(
    client: &Client,
    partition: i32,
    offset: KafkaOffset,
) -> Result<TopicPartitionList, rdkafka::error::KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&client.settings.topic, partition, offset)?;
    Ok(list)
}

impl TransportReader for KafkaReader {
    fn read(&mut self, rows_max: usize, timeout: Duration, records: &mut RawRecords) -> Result<Arrival> {
        if let Some(failure) = self.failure.take() {
            // A partition that failed stays so until it is opened again.
            self.failure = Some(failure.clone());
            return Err(failure);
        }
        self.client.serve();
        let (mut next, wanted) = (self.next, self.wanted);
        let (mut heard, mut failed) = (false, None);
        let mut wait = timeout;
        let is_enough = |records: &RawRecords| records.values.len() + records.rest.len() >= BYTES_MAX;
        while records.records.len() < rows_max.max(1) && !is_enough(records) && failed.is_none() {
            let room = (rows_max.max(1) - records.records.len()).min(BATCH);
            let taken = self.queue.take(room, wait, |message| {
                match message.error() {
                    None => {
                        heard = true;
                        // What an earlier reader of the partition left in the queue.
                        if message.offset() >= next {
                            push(&message, wanted, records);
                            next = message.offset() + 1;
                        }
                    }
                    Some(Code::RD_KAFKA_RESP_ERR__PARTITION_EOF) => {
                        heard = true;
                        next = next.max(message.offset());
                    }
                    Some(error) => failed = Some((error, message.error_text())),
                }
                failed.is_none() && !is_enough(records)
            });
            wait = Duration::ZERO;
            if taken < room {
                break;
            }
        }
        self.next = next;
        if heard {
            self.answered = true;
            self.client.watch().answered();
        }
        if let Some((error, text)) = failed {
            self.failure = Some(self.failure(error, &text));
        }
        if !records.records.is_empty() {
            return Ok(Arrival::Records(Offset(self.next)));
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.client.serve();
        if !heard && self.client.watch().is_down() && (self.answered || self.opened.elapsed() > PATIENCE) {
            return Err(self.client.unavailable());
        }
        Ok(Arrival::Idle(Offset(self.next)))
    }
}

fn push(message: &Message<'_>, wanted: Wanted, records: &mut RawRecords) {
    let value = message.value().map(|value| records.push_value(value));
    let key = if wanted.key { message.key().map(|key| records.push_rest(key)) } else { None };
    if wanted.headers {
        let record = records.records.len();
        message.headers(|name, value| {
            let value = value.map(|value| records.push_rest(value));
            records.headers.push(RawHeader { record, name, value });
        });
    }
    let timestamp = message.timestamp_ms().map(|at| at.saturating_mul(1000));
    records.records.push(RawRecord { value, key, offset: message.offset(), timestamp });
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        let unassigned = list(&self.client, self.partition, KafkaOffset::Invalid)
            .and_then(|list| self.client.consumer.incremental_unassign(&list));
        if let Err(error) = unassigned {
            tracing::debug!(target: "kafka", "partition {} was not given back: {error}", self.partition);
        }
        self.client.give_back(self.partition);
    }
}
