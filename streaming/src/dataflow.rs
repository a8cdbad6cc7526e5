//! Operator plan to timely graph: what travels between operators, and how it is placed on the workers.

use std::sync::Arc;

use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use storage::Batch;
use timely::Accountable;
use timely::communication::Push;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};

use crate::operator::Exchange;

/// A batch on its way, with a worker if it is meant for that one.
#[derive(Clone, Default)]
pub struct Parcel {
    /// The batch; `None` only in the empty parcel that timely needs.
    pub batch: Option<Batch>,
    /// The receiving worker of a broadcast copy.
    pub worker: Option<usize>,
}

impl Parcel {
    /// A parcel that goes where its rows belong.
    pub fn new(batch: Batch) -> Parcel {
        Parcel { batch: Some(batch), worker: None }
    }
}

impl Accountable for Parcel {
    fn record_count(&self) -> i64 {
        self.batch.as_ref().map_or(0, |batch| batch.num_rows() as i64)
    }
}

/// Between processes a parcel travels as one worker number and an Arrow IPC stream, the diffs as its last column.
impl ContainerBytes for Parcel {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let worker = i64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let length = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")) as usize;
        let batch = (length > 0).then(|| decode_batch(&bytes[16..16 + length]).expect("a peer of the same version"));
        Parcel { batch, worker: usize::try_from(worker).ok() }
    }

    fn length_in_bytes(&self) -> usize {
        16 + self.batch.as_ref().map_or(0, |batch| encode_batch(batch).len()).next_multiple_of(8)
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        let worker = self.worker.map_or(-1, |w| w as i64);
        let body = self.batch.as_ref().map(encode_batch).unwrap_or_default();
        let padding = [0u8; 8];
        writer.write_all(&worker.to_le_bytes()).expect("room for the parcel");
        writer.write_all(&(body.len() as u64).to_le_bytes()).expect("room for the parcel");
        writer.write_all(&body).expect("room for the parcel");
        writer.write_all(&padding[..body.len().next_multiple_of(8) - body.len()]).expect("room for the parcel");
    }
}

/// The name of the column that carries the diffs in an encoded batch.
const DIFF_COLUMN: &str = "__diff";

/// A batch as bytes: an Arrow IPC stream whose last column holds the diffs, if it has any.
pub fn encode_batch(batch: &Batch) -> Vec<u8> {
    use arrow_schema::{DataType, Field, Schema};
    let mut fields = batch.schema().fields().to_vec();
    let mut columns = batch.data().columns().to_vec();
    if let Some(diffs) = batch.diffs() {
        fields.push(Arc::new(Field::new(DIFF_COLUMN, DataType::Int64, false)));
        columns.push(Arc::new(diffs.clone()));
    }
    let schema = Arc::new(Schema::new(fields));
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let data = arrow::array::RecordBatch::try_new_with_options(schema.clone(), columns, &options).expect("same rows");
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).expect("a schema that Arrow can write");
    writer.write(&data).expect("memory to write to");
    writer.into_inner().expect("memory to write to")
}

/// The batch that [`encode_batch`] wrote.
pub fn decode_batch(bytes: &[u8]) -> crate::Result<Batch> {
    use arrow::array::AsArray;
    let mut reader = StreamReader::try_new(bytes, None)?;
    let data = reader.next().ok_or_else(|| crate::Error::Failed("an encoded batch is empty".into()))??;
    let schema = data.schema();
    match schema.fields().last() {
        Some(last) if last.name() == DIFF_COLUMN => {
            let n = data.num_columns() - 1;
            let diffs = data.column(n).as_primitive::<arrow::datatypes::Int64Type>().clone();
            let keep: Vec<usize> = (0..n).collect();
            Ok(Batch::new(data.project(&keep)?, Some(diffs)))
        }
        _ => Ok(Batch::new(data, None)),
    }
}

/// Routes parcels by [`Exchange`].
pub struct Router {
    exchange: Exchange,
    workers: usize,
}

impl Router {
    /// A router over `workers` workers.
    pub fn new(exchange: Exchange, workers: usize) -> Router {
        Router { exchange, workers }
    }
}

impl Distributor<Parcel> for Router {
    fn partition<T: Clone, P: Push<Message<T, Parcel>>>(&mut self, parcel: &mut Parcel, time: &T, pushers: &mut [P]) {
        let mut parcel = std::mem::take(parcel);
        let Some(batch) = parcel.batch.take() else { return };
        let mut send = |worker: usize, batch: Batch| {
            let mut parcel = Parcel::new(batch);
            Message::push_at(&mut parcel, time.clone(), &mut pushers[worker]);
        };
        if let Some(worker) = parcel.worker {
            return send(worker, batch);
        }
        match &self.exchange {
            Exchange::Hash(columns) => {
                let parts = batch.split(columns, self.workers).expect("a batch of the plan's types can be split");
                for (worker, part) in parts.into_iter().enumerate() {
                    if part.num_rows() > 0 {
                        send(worker, part);
                    }
                }
            }
            Exchange::Single => send(0, batch),
            Exchange::Same | Exchange::Broadcast => unreachable!("not routed by content"),
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Parcel>>>(&mut self, _: &T, _: &mut [P]) {}
}
