//! The queue of one partition, taken from in batches.
//!
//! rdkafka's own queue makes an event of each record and does not say at which offset a partition ended; here are the
//! few calls of librdkafka that do both better. All of the crate's unsafe code is in this file.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
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
    messages: Vec<*mut rd_kafka_message_t>,
    /// Outlives the queue: fields are dropped after `drop` has run.
    _consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues may be used from any thread; the pointers in `messages` are null between calls.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// The queue of `partition`, cut off from the client's own. To be called before the partition is assigned.
    pub(super) fn open(consumer: &Arc<Consumer>, topic: &str, partition: i32) -> Option<PartitionQueue> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client lives as long as `consumer`, the topic's name ends in a zero and is copied.
        let queue = unsafe { rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue was just made; forwarding to nothing keeps its records in it.
        unsafe { rd_kafka_queue_forward(queue.as_ptr(), std::ptr::null_mut()) };
        Some(PartitionQueue { queue, messages: Vec::new(), _consumer: consumer.clone() })
    }

    /// Hands over at most `max` messages; waits up to `timeout` for the first and not for the others.
    pub(super) fn take(&mut self, max: usize, timeout: Duration, mut each: impl FnMut(Message<'_>)) -> usize {
        let mut taken = 0;
        // The library's batch call would wait for a full batch.
        for (size, timeout) in [(1, timeout), (max.saturating_sub(1), Duration::ZERO)] {
            if size == 0 {
                break;
            }
            self.messages.clear();
            self.messages.resize(size, std::ptr::null_mut());
            let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
            // SAFETY: the queue is alive, and the array has room for `size` pointers.
            let n =
                unsafe { rd_kafka_consume_batch_queue(self.queue.as_ptr(), timeout, self.messages.as_mut_ptr(), size) };
            let n = usize::try_from(n).unwrap_or(0);
            for message in &mut self.messages[..n] {
                let raw = std::mem::replace(message, std::ptr::null_mut());
                each(Message { raw, _owner: PhantomData });
                // SAFETY: the call above made the message ours, nobody holds a part of it any more (`Message`
                // borrows what it shows from itself), and it is destroyed once.
                unsafe { rd_kafka_message_destroy(raw) };
            }
            taken += n;
            if n == 0 {
                break;
            }
        }
        taken
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and its client is still alive.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// A record, or an error about the partition.
pub(super) struct Message<'a> {
    raw: *mut rd_kafka_message_t,
    _owner: PhantomData<&'a ()>,
}

impl Message<'_> {
    fn message(&self) -> &rd_kafka_message_t {
        // SAFETY: `take` destroys the message only after the callback that has this has returned.
        unsafe { &*self.raw }
    }

    fn bytes(&self, start: *const c_void, length: usize) -> Option<&[u8]> {
        if start.is_null() {
            return None;
        }
        // SAFETY: librdkafka gives `length` readable bytes that live as long as the message.
        Some(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
    }

    /// The error, if it is no record; for the end of a partition, [`Message::offset`] is the position.
    pub(super) fn error(&self) -> Option<rd_kafka_resp_err_t> {
        let error = self.message().err;
        (error != NO_ERROR).then_some(error)
    }

    /// An error's text.
    pub(super) fn error_text(&self) -> String {
        let text = self.bytes(self.message().payload, self.message().len);
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    }

    /// The record's offset.
    pub(super) fn offset(&self) -> i64 {
        self.message().offset
    }

    /// The record's value; `None` for a tombstone.
    pub(super) fn value(&self) -> Option<&[u8]> {
        self.bytes(self.message().payload, self.message().len)
    }

    /// The record's key.
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.bytes(self.message().key, self.message().key_len)
    }

    /// When it was written, in milliseconds.
    pub(super) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and `kind` is written once.
        let at = unsafe { rd_kafka_message_timestamp(self.raw, &mut kind) };
        (at >= 0).then_some(at)
    }

    /// Calls `each` with every header.
    pub(super) fn headers(&self, mut each: impl FnMut(String, Option<&[u8]>)) {
        let mut headers = std::ptr::null_mut();
        // SAFETY: the message is alive; the headers belong to it.
        if unsafe { rd_kafka_message_headers(self.raw, &mut headers) } != NO_ERROR {
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
            each(name, self.bytes(value, size));
        }
    }
}
