//! The aggregates whose result needs every input in an order: `array_agg`, `string_agg`, `jsonb_agg`,
//! `jsonb_object_agg`, `percentile_cont`, `percentile_disc` and `mode`.
//!
//! The order is that of the arguments behind the aggregate's own (ORDER BY), and of the arguments themselves where those
//! do not decide: the same in a stream and in a read, whatever order the rows came in.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow_schema::{DataType, Field};
use datafusion::common::ScalarValue;
use storage::keys::{self, SortOption};

use super::avg::scaled;
use super::sum::{interval_out_of_range, interval_scalar};
use super::{Accumulator, AggregateCall, AggregateKind, Input, Multiset, failed, unsupported};
use crate::error::{Error, Result};

/// How the columns of a multiset's keys stand: the order columns, then the arguments.
#[derive(Clone, Debug)]
pub(super) struct KeyLayout {
    types: Vec<DataType>,
    options: Vec<SortOption>,
    n_order: usize,
}

impl KeyLayout {
    /// The layout for arguments of which the last `order.len()` are what is sorted by.
    pub(super) fn new(arg_types: &[DataType], order: &[SortOption]) -> Result<KeyLayout> {
        let n = arg_types.len().checked_sub(order.len());
        let n = n.ok_or_else(|| Error::Failed("an aggregate has more order columns than arguments".into()))?;
        let (args, by) = arg_types.split_at(n);
        let mut options = order.to_vec();
        options.resize(arg_types.len(), SortOption::default());
        Ok(KeyLayout { types: [by, args].concat(), options, n_order: order.len() })
    }

    pub(super) fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        let (own, by) = args.split_at(args.len() - self.n_order);
        let keys = keys::encode(&[by, own].concat(), &self.options)?;
        Ok(Input { args: args.to_vec(), keys: Some(keys), inner: None })
    }

    /// The arguments (the order columns behind them) of some keys.
    pub(super) fn decode<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let mut columns = keys::decode(&self.types, &self.options, keys)?;
        columns.rotate_left(self.n_order);
        Ok(columns)
    }
}

#[derive(Debug)]
pub(super) struct Collect {
    kind: AggregateKind,
    returns: DataType,
    layout: KeyLayout,
    values: Multiset,
}

impl Collect {
    pub(super) fn new(call: &AggregateCall, arg_types: &[DataType]) -> Result<Self> {
        let returns = call.returns.clone();
        let layout = KeyLayout::new(arg_types, &call.order)?;
        let own = &arg_types[..arg_types.len() - call.order.len()];
        let fits = match (call.kind, own) {
            (AggregateKind::ArrayAgg, [value]) => matches!(&returns, DataType::List(item) if item.data_type() == value),
            (AggregateKind::StringAgg, [a, b]) => a == b && matches!(a, DataType::Utf8View | DataType::BinaryView),
            (AggregateKind::JsonbAgg, [DataType::Utf8View]) => true,
            (AggregateKind::JsonbObjectAgg, [DataType::Utf8View, DataType::Utf8View]) => true,
            (AggregateKind::PercentileCont, [DataType::Float64 | DataType::Interval(_), q]) => is_fraction(q),
            (AggregateKind::PercentileDisc, [_, q]) => is_fraction(q) && !call.order.is_empty(),
            (AggregateKind::Mode, [_]) => !call.order.is_empty(),
            _ => false,
        };
        if !fits {
            return Err(unsupported(call.kind, own.first().unwrap_or(&DataType::Null)));
        }
        Ok(Collect { kind: call.kind, returns, layout, values: Multiset::default() })
    }

    fn null(&self) -> Result<ScalarValue> {
        ScalarValue::try_from(&self.returns).map_err(failed)
    }

    fn array(&self, items: ArrayRef) -> Result<ScalarValue> {
        let DataType::List(item) = &self.returns else { return Err(unsupported(self.kind, &self.returns)) };
        list(item, items)
    }

    fn text(texts: &ArrayRef, delimiters: &ArrayRef) -> ScalarValue {
        let (texts, delimiters) = (texts.as_string_view(), delimiters.as_string_view());
        let mut all = String::new();
        for i in 0..texts.len() {
            if i > 0 && delimiters.is_valid(i) {
                all.push_str(delimiters.value(i));
            }
            all.push_str(texts.value(i));
        }
        ScalarValue::Utf8View(Some(all))
    }

    fn bytes_of(texts: &ArrayRef, delimiters: &ArrayRef) -> ScalarValue {
        let (texts, delimiters) = (texts.as_binary_view(), delimiters.as_binary_view());
        let mut all = Vec::new();
        for i in 0..texts.len() {
            if i > 0 && delimiters.is_valid(i) {
                all.extend_from_slice(delimiters.value(i));
            }
            all.extend_from_slice(texts.value(i));
        }
        ScalarValue::BinaryView(Some(all))
    }

    /// Percentiles by the fractions that stand in the last row: they are the same in all rows of a group.
    fn percentiles(&self, columns: &[ArrayRef]) -> Result<ScalarValue> {
        let (values, fractions) = (&columns[0], &columns[1]);
        let n = values.len();
        let many = matches!(fractions.data_type(), DataType::List(_));
        let given = if many {
            let list = fractions.as_list::<i32>();
            if list.is_null(n - 1) {
                return self.null();
            }
            list.value(n - 1)
        } else {
            fractions.slice(n - 1, 1)
        };
        let mut results = Vec::with_capacity(given.len());
        for fraction in given.as_primitive::<Float64Type>().iter() {
            results.push(fraction.map(|fraction| self.percentile(values, fraction)).transpose()?);
        }
        if !many {
            return results.pop().flatten().map_or_else(|| self.null(), Ok);
        }
        let DataType::List(item) = &self.returns else { return Err(unsupported(self.kind, &self.returns)) };
        let null = ScalarValue::try_from(item.data_type()).map_err(failed)?;
        let items = results.into_iter().map(|value| value.unwrap_or_else(|| null.clone()));
        let items = match given.is_empty() {
            true => new_empty_array(item.data_type()),
            false => ScalarValue::iter_to_array(items).map_err(failed)?,
        };
        list(item, items)
    }

    fn percentile(&self, values: &ArrayRef, fraction: f64) -> Result<ScalarValue> {
        if !(0.0..=1.0).contains(&fraction) {
            let message = format!("percentile value {fraction} is not between 0 and 1");
            return Err(Error::invalid("22003", message));
        }
        let n = values.len();
        if self.kind == AggregateKind::PercentileDisc {
            let row = ((fraction * n as f64).ceil() as usize).max(1) - 1;
            return ScalarValue::try_from_array(values, row.min(n - 1)).map_err(failed);
        }
        let place = fraction * (n - 1) as f64;
        let (first, second) = (place.floor() as usize, place.ceil() as usize);
        if first == second {
            return ScalarValue::try_from_array(values, first).map_err(failed);
        }
        let part = place - first as f64;
        if let Some(values) = values.as_primitive_opt::<IntervalMonthDayNanoType>() {
            return interval_scalar(Some(interval_between(values.value(first), values.value(second), part)?));
        }
        let values = values.as_primitive::<Float64Type>();
        let low = values.value(first);
        Ok(ScalarValue::Float64(Some(low + (values.value(second) - low) * part)))
    }

    /// The most frequent value; the first in the order of several. Equal values may be different bytes: what is compared
    /// is the order column.
    fn mode(&self, columns: &[ArrayRef]) -> Result<ScalarValue> {
        let by = keys::encode(&columns[1..2], &[])?;
        let (mut best, mut best_count) = (0, 0);
        let mut first = 0;
        for row in 0..by.len() {
            if by.get(row) != by.get(first) {
                first = row;
            }
            if row - first + 1 > best_count {
                (best, best_count) = (first, row - first + 1);
            }
        }
        ScalarValue::try_from_array(&columns[0], best).map_err(failed)
    }
}

/// The fields of the interval that lies `part` of the way from one to another.
fn interval_between(low: IntervalMonthDayNano, high: IntervalMonthDayNano, part: f64) -> Result<(i32, i32, i64)> {
    let [low, high] = [low, high].map(|v| (v.months, v.days, v.nanoseconds / 1000));
    let way = (|| Some((high.0.checked_sub(low.0)?, high.1.checked_sub(low.1)?, high.2.checked_sub(low.2)?)))();
    let way = scaled(way.ok_or_else(interval_out_of_range)?, |field| field * part);
    let sum = (|| Some((low.0.checked_add(way.0)?, low.1.checked_add(way.1)?, low.2.checked_add(way.2)?)))();
    sum.ok_or_else(interval_out_of_range)
}

fn is_fraction(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float64 => true,
        DataType::List(item) => *item.data_type() == DataType::Float64,
        _ => false,
    }
}

fn list(item: &Arc<Field>, items: ArrayRef) -> Result<ScalarValue> {
    let offsets = OffsetBuffer::from_lengths([items.len()]);
    Ok(ScalarValue::List(Arc::new(ListArray::try_new(Arc::clone(item), offsets, items, None)?)))
}

/// `jsonb` values as a `jsonb` array.
fn json_array(values: &ArrayRef) -> ScalarValue {
    let items: Vec<&str> = values.as_string_view().iter().map(|value| value.unwrap_or("null")).collect();
    ScalarValue::Utf8View(Some(format!("[{}]", items.join(", "))))
}

/// Names and `jsonb` values as a `jsonb` object; the last of several values with one name stays.
fn json_object(names: &ArrayRef, values: &ArrayRef) -> Result<ScalarValue> {
    let mut text = String::from("{");
    for (i, (name, value)) in names.as_string_view().iter().zip(values.as_string_view()).enumerate() {
        let name = name.ok_or_else(|| Error::invalid("22023", "field name must not be null"))?;
        if i > 0 {
            text.push(',');
        }
        storage::jsonb::write_string(name, &mut text);
        text.push(':');
        text.push_str(value.unwrap_or("null"));
    }
    text.push('}');
    let canonical = storage::jsonb::canonical(text.as_bytes());
    Ok(ScalarValue::Utf8View(Some(canonical.map_err(|e| Error::invalid(e.sqlstate, e.to_string()))?)))
}

impl Accumulator for Collect {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        self.layout.prepare(args)
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        let keeps_nulls =
            matches!(self.kind, AggregateKind::ArrayAgg | AggregateKind::JsonbAgg | AggregateKind::JsonbObjectAgg);
        if keeps_nulls || !input.is_null(row) {
            self.values.add(input.key(row), diff);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let columns = self.layout.decode(self.values.expanded())?;
        if columns[0].is_empty() {
            return self.null();
        }
        match self.kind {
            AggregateKind::ArrayAgg => self.array(columns[0].clone()),
            AggregateKind::StringAgg if self.returns == DataType::BinaryView => {
                Ok(Self::bytes_of(&columns[0], &columns[1]))
            }
            AggregateKind::StringAgg => Ok(Self::text(&columns[0], &columns[1])),
            AggregateKind::JsonbAgg => Ok(json_array(&columns[0])),
            AggregateKind::JsonbObjectAgg => json_object(&columns[0], &columns[1]),
            AggregateKind::Mode => self.mode(&columns),
            _ => self.percentiles(&columns),
        }
    }

    fn encode(&self, _out: &mut Vec<u8>) {}

    fn merge(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.values.bytes()
    }
}
