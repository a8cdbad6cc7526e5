//! The queue of one partition, taken from in batches.
//!
//! rdkafka's own queue makes an event of each record and does not say at which offset a partition ended; here are the
//! few calls of librdkafka that do both better. All of the crate's unsafe code is in this file.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_header_get_all, rd_kafka_message_destroy, rd_kafka_message_headers,
    rd_kafka_message_t, rd_kafka_message_timestamp, rd_kafka_queue_destroy, rd_kafka_queue_forward,
    rd_kafka_queue_get_partition, rd_kafka_queue_t, rd_kafka_resp_err_t, rd_kafka_timestamp_type_t,
};
use rdkafka::consumer::Consumer as _;

use super::client::{Consumer, NO_ERROR};

/// The records of one partition that a client has fetched.
pub(super) struct PartitionQueue {
    queue: NonNull<rd_kafka_queue_t>,
    /// Room for what one call takes; its pointers mean nothing between calls.
    room: Vec<*mut rd_kafka_message_t>,
    /// Messages that are taken and not handed over yet. They are ours: each is destroyed once, by [`Owned`].
    taken: VecDeque<Owned>,
    /// Outlives the queue and the messages: fields are dropped after `drop` has run, in this order.
    _consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues may be used from any thread, one at a time here because that takes `&mut`. Messages are
// plain memory that any thread may read and destroy, and nobody else has a pointer to them. The pointers in `room` are
// written before they are read.
unsafe impl Send for PartitionQueue {}

/// A message that librdkafka gave away.
struct Owned(NonNull<rd_kafka_message_t>);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: whoever makes an `Owned` has the message from librdkafka, which keeps no pointer to it; it is destroyed
        // here only, and what `Message` shows of it is borrowed from the `Owned`.
        unsafe { rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

impl PartitionQueue {
    /// The queue of `partition`, cut off from the client's own. To be called before the partition is assigned.
    pub(super) fn open(consumer: &Arc<Consumer>, topic: &str, partition: i32) -> Option<PartitionQueue> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client lives as long as `consumer`, the topic's name ends in a zero and is copied.
        let queue = unsafe { rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue was just made; forwarding to nothing keeps its records in it.
        unsafe { rd_kafka_queue_forward(queue.as_ptr(), std::ptr::null_mut()) };
        Some(PartitionQueue { queue, room: Vec::new(), taken: VecDeque::new(), _consumer: consumer.clone() })
    }

    /// Hands over at most `max` messages, as long as `each` wants another; the others stay for the next call. Waits up to
    /// `timeout` for the first and not for the others. Gives the number of messages handed over.
    pub(super) fn take(&mut self, max: usize, timeout: Duration, mut each: impl FnMut(Message<'_>) -> bool) -> usize {
        let mut handed = 0;
        while handed < max {
            if self.taken.is_empty() {
                // The library's batch call would wait for a full batch: it waits for the first message alone.
                let (size, timeout) = if handed == 0 { (1, timeout) } else { (max - handed, Duration::ZERO) };
                self.fetch(size, timeout);
            }
            let Some(message) = self.taken.pop_front() else { break };
            handed += 1;
            if !each(Message { owned: &message }) {
                break;
            }
        }
        handed
    }

    /// Moves at most `size` messages from the queue into `taken`.
    fn fetch(&mut self, size: usize, timeout: Duration) {
        self.room.clear();
        self.room.resize(size, std::ptr::null_mut());
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive as long as `self`, and `room` has room for `size` pointers.
        let n = unsafe { rd_kafka_consume_batch_queue(self.queue.as_ptr(), timeout, self.room.as_mut_ptr(), size) };
        // It is negative for an error. The first `n` places hold messages that are ours now.
        let n = usize::try_from(n).unwrap_or(0);
        self.taken.extend(self.room[..n].iter().filter_map(|message| NonNull::new(*message)).map(Owned));
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and destroyed once; its client is still alive.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// A record, or an error about the partition.
pub(super) struct Message<'a> {
    owned: &'a Owned,
}

impl Message<'_> {
    fn message(&self) -> &rd_kafka_message_t {
        // SAFETY: the message is alive as long as `owned`, aligned and written by librdkafka. Nobody changes its fields:
        // parsing the headers changes what librdkafka keeps behind them.
        unsafe { self.owned.0.as_ref() }
    }

    /// `length` bytes that belong to the message.
    ///
    /// # Safety
    /// `start` and `length` are what librdkafka says of this message's payload, key, or one of its headers.
    unsafe fn bytes(&self, start: *const c_void, length: usize) -> Option<&[u8]> {
        // librdkafka's lengths are those of the protocol, 32 bits signed; a slice may not be longer than this.
        if start.is_null() || isize::try_from(length).is_err() {
            return None;
        }
        // SAFETY: librdkafka has checked the lengths against the response that it received; the bytes are not written
        // again and live as long as the message.
        Some(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
    }

    /// The error, if it is no record. For the end of a partition, [`Message::offset`] is the position.
    pub(super) fn error(&self) -> Option<rd_kafka_resp_err_t> {
        let error = self.message().err;
        (error != NO_ERROR).then_some(error)
    }

    /// An error's text.
    pub(super) fn error_text(&self) -> String {
        let text = self.value();
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    }

    /// The record's offset.
    pub(super) fn offset(&self) -> i64 {
        self.message().offset
    }

    /// The record's value; `None` for a tombstone.
    pub(super) fn value(&self) -> Option<&[u8]> {
        // SAFETY: these are the payload and its length.
        unsafe { self.bytes(self.message().payload, self.message().len) }
    }

    /// The record's key.
    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: these are the key and its length.
        unsafe { self.bytes(self.message().key, self.message().key_len) }
    }

    /// When it was written, in milliseconds.
    pub(super) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and `kind` is written once.
        let at = unsafe { rd_kafka_message_timestamp(self.owned.0.as_ptr(), &mut kind) };
        (at >= 0).then_some(at)
    }

    /// Calls `each` with every header.
    pub(super) fn headers(&self, mut each: impl FnMut(String, Option<&[u8]>)) {
        let mut headers = std::ptr::null_mut();
        // SAFETY: the message is alive, and only this thread has it; the headers belong to it.
        if unsafe { rd_kafka_message_headers(self.owned.0.as_ptr(), &mut headers) } != NO_ERROR {
            return;
        }
        for i in 0.. {
            let (mut name, mut value, mut size): (*const c_char, *const c_void, usize) =
                (std::ptr::null(), std::ptr::null(), 0);
            // SAFETY: the headers are alive as their message is; an index beyond the last is an error code.
            if unsafe { rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut size) } != NO_ERROR {
                return;
            }
            // SAFETY: a header's name ends in a zero and lives as long as its message.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
            // SAFETY: these are a header's value and its length.
            each(name, unsafe { self.bytes(value, size) });
        }
    }
}
