//! The Nexmark auction: persons, auctions and bids, generated.
//!
//! Event `i` is a pure function of `i` and the seed (`nexmark/event.rs`), so any worker can make any share of the
//! events, and a restart makes them again. Events come in groups of 50: one person, three auctions, 46 bids. Split `s`
//! of `n` makes the groups `s`, `s + n`, `s + 2n`, ...; its offset counts the events of its groups.
//!
//! Only the columns that are read are made, each by a loop of its own.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{ArrayRef, Int64Array, StringViewBuilder, TimestampMicrosecondArray};
use storage::{Column, SqlType, jsonb};
use streaming::error::{Error, Result};
use streaming::source::{Offset, Read, Records, Source, SourceSpec, Split, SplitReader};

use crate::decoding::{batch, projected_schema};
use crate::formats::datetime;
use crate::options::{OptionDoc, Options};
use crate::{Connector, OPTIONS as COMMON};

mod event;

use event::{Events, GROUP};

/// The connector.
pub struct Nexmark;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "nexmark.table.type",
        default: "",
        doc: "`Bid`, `Auction` or `Person`; without it every event, with its `event_type` and the parts as `jsonb`",
    },
    OptionDoc { name: "nexmark.event.num", default: "-1", doc: "events of all types in all, -1 for no end" },
    OptionDoc { name: "nexmark.split.num", default: "1", doc: "splits: parts that can be made at the same time" },
    OptionDoc { name: "nexmark.min.event.gap.in.ns", default: "100000", doc: "event time between two events" },
    OptionDoc {
        name: "nexmark.events.per.second",
        default: "",
        doc: "events made in a second, 0 for as fast as possible; without it as many as their event times say",
    },
    OptionDoc { name: "nexmark.seed", default: "0", doc: "another seed makes other events" },
    OptionDoc {
        name: "nexmark.base.time",
        default: "2026-01-01",
        doc: "event time of the first event: a timestamp, or `now` for when the source was created",
    },
    OptionDoc { name: "nexmark.use.real.time", default: "false", doc: "the same as `nexmark.base.time = 'now'`" },
    OptionDoc { name: "nexmark.max.chunk.size", default: "", doc: "accepted and ignored" },
];

/// What a source makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Person,
    Auction,
    Bid,
    All,
}

/// A column that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Make {
    EventType,
    DateTime,
    Extra,
    PersonId,
    Name,
    Email,
    CreditCard,
    City,
    State,
    AuctionId,
    ItemName,
    Description,
    InitialBid,
    Reserve,
    Expires,
    Seller,
    Category,
    BidAuction,
    Bidder,
    Price,
    Channel,
    Url,
    Person,
    Auction,
    Bid,
}

use SqlType::{BigInt, Jsonb, Timestamp, Varchar};

const PERSON: &[(&str, SqlType, Make)] = &[
    ("id", BigInt, Make::PersonId),
    ("name", Varchar, Make::Name),
    ("email_address", Varchar, Make::Email),
    ("credit_card", Varchar, Make::CreditCard),
    ("city", Varchar, Make::City),
    ("state", Varchar, Make::State),
    ("date_time", Timestamp, Make::DateTime),
    ("extra", Varchar, Make::Extra),
];

const AUCTION: &[(&str, SqlType, Make)] = &[
    ("id", BigInt, Make::AuctionId),
    ("item_name", Varchar, Make::ItemName),
    ("description", Varchar, Make::Description),
    ("initial_bid", BigInt, Make::InitialBid),
    ("reserve", BigInt, Make::Reserve),
    ("date_time", Timestamp, Make::DateTime),
    ("expires", Timestamp, Make::Expires),
    ("seller", BigInt, Make::Seller),
    ("category", BigInt, Make::Category),
    ("extra", Varchar, Make::Extra),
];

const BID: &[(&str, SqlType, Make)] = &[
    ("auction", BigInt, Make::BidAuction),
    ("bidder", BigInt, Make::Bidder),
    ("price", BigInt, Make::Price),
    ("channel", Varchar, Make::Channel),
    ("url", Varchar, Make::Url),
    ("date_time", Timestamp, Make::DateTime),
    ("extra", Varchar, Make::Extra),
];

const EVERYTHING: &[(&str, SqlType, Make)] = &[
    ("event_type", BigInt, Make::EventType),
    ("date_time", Timestamp, Make::DateTime),
    ("person", Jsonb, Make::Person),
    ("auction", Jsonb, Make::Auction),
    ("bid", Jsonb, Make::Bid),
];

impl Table {
    fn columns(self) -> &'static [(&'static str, SqlType, Make)] {
        match self {
            Table::Person => PERSON,
            Table::Auction => AUCTION,
            Table::Bid => BID,
            Table::All => EVERYTHING,
        }
    }

    /// Whether the event at this place of a group is of the table.
    fn has(self, place: u64) -> bool {
        match self {
            Table::Person => place == 0,
            Table::Auction => (1..4).contains(&place),
            Table::Bid => place >= 4,
            Table::All => true,
        }
    }
}

fn table(options: &Options) -> Result<Table> {
    let tables = [("", Table::All), ("bid", Table::Bid), ("auction", Table::Auction), ("person", Table::Person)];
    options.choice("nexmark.table.type", &tables)
}

fn options(spec: &SourceSpec) -> Result<Options> {
    Options::new("connector \"nexmark\"", &spec.options, &[COMMON, OPTIONS])
}

impl Connector for Nexmark {
    fn name(&self) -> &'static str {
        "nexmark"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn columns(&self, spec: &SourceSpec) -> Result<Vec<Column>> {
        if !spec.columns.is_empty() {
            return Ok(spec.columns.clone());
        }
        let known = table(&options(spec)?)?.columns();
        Ok(known.iter().map(|(name, ty, _)| Column::new(*name, ty.clone())).collect())
    }

    fn fix(&self, spec: &SourceSpec) -> Result<SourceSpec> {
        let options = options(spec)?;
        let now = options.get("nexmark.base.time").is_some_and(|time| time.eq_ignore_ascii_case("now"))
            || (options.get("nexmark.base.time").is_none() && options.boolean("nexmark.use.real.time", false)?);
        if !now {
            return Ok(spec.clone());
        }
        let mut spec = spec.clone();
        spec.options.retain(|(name, _)| {
            !name.eq_ignore_ascii_case("nexmark.base.time") && !name.eq_ignore_ascii_case("nexmark.use.real.time")
        });
        spec.options.push(("nexmark.base.time".into(), now_ms().to_string()));
        Ok(spec)
    }

    fn source(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        crate::refuse_format(spec, "nexmark")?;
        let options = options(spec)?;
        let table = table(&options)?;
        let makes = spec.columns.iter().map(|column| make(table, column)).collect::<Result<_>>()?;
        let splits: u64 = options.number("nexmark.split.num", 1)?;
        if splits == 0 || splits > 4096 {
            return Err(options.bad("nexmark.split.num", "between 1 and 4096"));
        }
        let gap_ns: u64 = options.number("nexmark.min.event.gap.in.ns", 100_000)?;
        let rate = match options.get("nexmark.events.per.second") {
            Some(_) => options.number("nexmark.events.per.second", 0.0)?,
            None if gap_ns == 0 => 0.0,
            None => 1e9 / gap_ns as f64,
        };
        if !(0.0..1e12).contains(&rate) {
            return Err(options.bad("nexmark.events.per.second", "a rate"));
        }
        let events: i64 = options.number("nexmark.event.num", -1)?;
        let base_ms = match options.get("nexmark.base.time") {
            Some("now") => now_ms(),
            // What `fix` made of `now`.
            Some(text) if text.parse::<i64>().is_ok() => options.number("nexmark.base.time", 0)?,
            Some(text) => match datetime::timestamp(text) {
                Some((at, offset)) if at.abs() < i64::MAX / 4 => (at - offset.unwrap_or(0)).div_euclid(1000),
                _ => return Err(options.bad("nexmark.base.time", "a timestamp or now")),
            },
            None if options.boolean("nexmark.use.real.time", false)? => now_ms(),
            None => 1_767_225_600_000,
        };
        let gap_ns = if gap_ns == 0 { 100_000 } else { gap_ns };
        let generator = Events::new(options.number("nexmark.seed", 0)?, base_ms, gap_ns);
        Ok(Arc::new(NexmarkSource {
            table,
            columns: spec.columns.clone(),
            makes,
            splits,
            rate: rate / splits as f64,
            events: u64::try_from(events).ok(),
            generator: Arc::new(generator),
        }))
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How a declared column is made. Names are compared without case and underscores: `dateTime` is `date_time`.
fn make(table: Table, column: &Column) -> Result<Make> {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let known = table.columns();
    let Some((name, ty, make)) = known.iter().find(|(name, _, _)| plain(name) == plain(&column.name)) else {
        let names: Vec<&str> = known.iter().map(|(name, _, _)| *name).collect();
        let message = format!("a Nexmark event has no column \"{}\"", column.name);
        return Err(crate::options::invalid_hint(message, format!("The columns are: {}.", names.join(", "))));
    };
    let text = |ty: &SqlType| matches!(ty, SqlType::Text | SqlType::Varchar);
    let time = |ty: &SqlType| matches!(ty, SqlType::Timestamp | SqlType::TimestampTz);
    if column.ty != *ty && !(text(&column.ty) && text(ty)) && !(time(&column.ty) && time(ty)) {
        return Err(Error::invalid("42804", format!("column \"{name}\" of a Nexmark event is of another type")));
    }
    Ok(*make)
}

struct NexmarkSource {
    table: Table,
    columns: Vec<Column>,
    makes: Vec<Make>,
    splits: u64,
    /// Events a second of one split; 0 for as fast as possible.
    rate: f64,
    /// Events in all.
    events: Option<u64>,
    generator: Arc<Events>,
}

impl NexmarkSource {
    fn number(&self, split: &str) -> Result<u64> {
        let number = split.parse().ok().filter(|n| *n < self.splits);
        number.ok_or_else(|| Error::NotFound(format!("there is no split \"{split}\"")))
    }

    /// Events of split `s`, if there is an end to them.
    fn events_of(&self, s: u64) -> Option<u64> {
        let events = self.events?;
        let (groups, rest) = (events / GROUP, events % GROUP);
        let own = if groups > s { (groups - s).div_ceil(self.splits) * GROUP } else { 0 };
        Some(own + if groups % self.splits == s { rest } else { 0 })
    }
}

impl Source for NexmarkSource {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn splits(&self) -> Result<Vec<Split>> {
        Ok((0..self.splits).map(|s| Split { id: s.to_string(), start: Offset(0) }).collect())
    }

    fn open(&self, split: &str, split_number: u16, from: Offset, projection: &[usize]) -> Result<Box<dyn SplitReader>> {
        let number = self.number(split)?;
        Ok(Box::new(NexmarkReader {
            table: self.table,
            makes: projection.iter().map(|&i| self.makes.get(i).copied()).collect(),
            zoned: projection
                .iter()
                .map(|&i| self.columns.get(i).is_some_and(|c| c.ty == SqlType::TimestampTz))
                .collect(),
            schema: projected_schema(&self.columns, projection),
            row_ids: i64::from(split_number) << 48,
            split: number,
            splits: self.splits,
            pace: Pace::new(self.rate, from.0 as u64),
            end: self.events_of(number).unwrap_or(u64::MAX),
            next: from.0 as u64,
            generator: self.generator.clone(),
        }))
    }

    fn end(&self, split: &str) -> Result<Option<Offset>> {
        Ok(self.events_of(self.number(split)?).map(|end| Offset(end as i64)))
    }
}

/// How many events are due.
pub(crate) struct Pace {
    rate: f64,
    started: Instant,
    first: u64,
}

impl Pace {
    /// From `first` on, `rate` a second; 0 for all at once.
    pub(crate) fn new(rate: f64, first: u64) -> Pace {
        Pace { rate, started: Instant::now(), first }
    }

    /// The first event that is not due yet; waits up to `timeout` for one behind `next`.
    pub(crate) fn due(&self, next: u64, timeout: Duration) -> u64 {
        if self.rate == 0.0 {
            return u64::MAX;
        }
        let due = |elapsed: Duration| self.first.saturating_add((elapsed.as_secs_f64() * self.rate) as u64);
        let now = due(self.started.elapsed());
        if now > next {
            return now;
        }
        // Wake when the next event is due, but in steps of some milliseconds: a high rate would wake all the time.
        let wait = ((next + 1 - self.first) as f64 / self.rate) - self.started.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs_f64(wait.clamp(0.002, 3600.0)).min(timeout));
        due(self.started.elapsed())
    }
}

struct NexmarkReader {
    table: Table,
    /// `None` is the row id.
    makes: Vec<Option<Make>>,
    zoned: Vec<bool>,
    schema: arrow_schema::SchemaRef,
    row_ids: i64,
    split: u64,
    splits: u64,
    pace: Pace,
    end: u64,
    next: u64,
    generator: Arc<Events>,
}

impl SplitReader for NexmarkReader {
    fn read(&mut self, rows_max: usize, timeout: Duration) -> Result<Read> {
        if self.next >= self.end {
            return Ok(Read::End { next: Offset(self.next as i64) });
        }
        let due = self.pace.due(self.next, timeout).min(self.end);
        if due <= self.next {
            return Ok(Read::Idle { next: Offset(self.next as i64) });
        }
        // A rare type may need many events for a row; a step stays a step.
        let per_group = (0..GROUP).filter(|place| self.table.has(*place)).count() as u64;
        let events = (rows_max as u64).max(1).saturating_mul(GROUP).div_ceil(per_group).max(GROUP);
        let until = due.min(self.next.saturating_add(events));
        let first = self.next;
        self.next = until;
        let mut own: Vec<u64> = Vec::with_capacity((until - first) as usize);
        own.extend((first..until).filter(|n| self.table.has(n % GROUP)));
        if own.is_empty() {
            return Ok(Read::Idle { next: Offset(until as i64) });
        }
        let global: Vec<u64> = own.iter().map(|n| (n / GROUP * self.splits + self.split) * GROUP + n % GROUP).collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.makes.len());
        for (make, zoned) in self.makes.iter().zip(&self.zoned) {
            columns.push(match make {
                Some(make) => column(&self.generator, *make, &global, *zoned),
                None => Arc::new(Int64Array::from_iter_values(own.iter().map(|n| self.row_ids | *n as i64))),
            });
        }
        let batch = batch(&self.schema, columns, own.len())?;
        let bytes = batch.data().get_array_memory_size();
        let next = Offset(until as i64);
        Ok(Read::Records(Records { batch, errors: Vec::new(), next, records: own.len(), bytes, again: Vec::new() }))
    }
}

fn column<'e>(events: &'e Events, make: Make, numbers: &[u64], zoned: bool) -> ArrayRef {
    let integers = |read: &dyn Fn(u64) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(numbers.iter().map(|i| read(*i))))
    };
    let times = |read: &dyn Fn(u64) -> i64| -> ArrayRef {
        let array = TimestampMicrosecondArray::from_iter_values(numbers.iter().map(|i| read(*i) * 1000));
        Arc::new(if zoned { array.with_timezone("UTC") } else { array })
    };
    let texts = |write: &dyn Fn(u64, &mut String)| -> ArrayRef {
        let mut out = StringViewBuilder::with_capacity(numbers.len()).with_fixed_block_size(1 << 20);
        let mut text = String::new();
        for i in numbers {
            text.clear();
            write(*i, &mut text);
            out.append_value(&text);
        }
        Arc::new(out.finish())
    };
    let slices = |read: &dyn Fn(u64) -> &'static str| -> ArrayRef {
        let mut out = StringViewBuilder::with_capacity(numbers.len());
        numbers.iter().for_each(|i| out.append_value(read(*i)));
        Arc::new(out.finish())
    };
    let borrowed = |read: &dyn Fn(u64) -> &'e str| -> ArrayRef {
        let mut out = StringViewBuilder::with_capacity(numbers.len()).with_fixed_block_size(1 << 20);
        numbers.iter().for_each(|i| out.append_value(read(*i)));
        Arc::new(out.finish())
    };
    let json = |table: Table, part: &[(&str, SqlType, Make)]| -> ArrayRef {
        let mut out = StringViewBuilder::with_capacity(numbers.len()).with_fixed_block_size(1 << 20);
        for i in numbers {
            if table.has(i % GROUP) {
                out.append_value(jsonb::canonical(object(events, part, *i).as_bytes()).unwrap_or_default());
            } else {
                out.append_null();
            }
        }
        Arc::new(out.finish())
    };
    match make {
        Make::EventType => integers(&|i| match i % GROUP {
            0 => 0,
            1..4 => 1,
            _ => 2,
        }),
        Make::DateTime => times(&|i| events.time_ms(i)),
        Make::Expires => times(&|i| events.expires_ms(i)),
        Make::Extra => borrowed(&|i| events.extra(i)),
        Make::PersonId => integers(&|i| events.person_id(i)),
        Make::Name => texts(&|i, out| events.name(i, out)),
        Make::Email => texts(&|i, out| events.email(i, out)),
        Make::CreditCard => texts(&|i, out| events.credit_card(i, out)),
        Make::City => slices(&|i| events.city(i)),
        Make::State => slices(&|i| events.state(i)),
        Make::AuctionId => integers(&|i| events.auction_id(i)),
        Make::ItemName => borrowed(&|i| events.item_name(i)),
        Make::Description => borrowed(&|i| events.description(i)),
        Make::InitialBid => integers(&|i| events.initial_bid(i)),
        Make::Reserve => integers(&|i| events.reserve(i)),
        Make::Seller => integers(&|i| events.seller(i)),
        Make::Category => integers(&|i| events.category(i)),
        Make::BidAuction => integers(&|i| events.bid_auction(i)),
        Make::Bidder => integers(&|i| events.bidder(i)),
        Make::Price => integers(&|i| events.price(i)),
        Make::Channel => borrowed(&|i| events.channel(i)),
        Make::Url => borrowed(&|i| events.url(i)),
        Make::Person => json(Table::Person, PERSON),
        Make::Auction => json(Table::Auction, AUCTION),
        Make::Bid => json(Table::Bid, BID),
    }
}

/// One event's part as a JSON object.
fn object(events: &Events, part: &[(&str, SqlType, Make)], i: u64) -> String {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    let options = FormatOptions::default();
    let mut out = String::from("{");
    for (n, (name, ty, make)) in part.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        jsonb::write_string(name, &mut out);
        out.push(':');
        let array = column(events, *make, &[i], false);
        let text = ArrayFormatter::try_new(&array, &options).map(|f| f.value(0).to_string()).unwrap_or_default();
        if *ty == BigInt { out.push_str(&text) } else { jsonb::write_string(&text, &mut out) }
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use arrow::util::pretty::pretty_format_batches;
    use expect_test::expect;
    use streaming::source::Sources;

    use super::*;
    use crate::Connectors;

    fn spec(given: &[(&str, &str)]) -> SourceSpec {
        let mut options = vec![("connector".to_string(), "nexmark".to_string())];
        options.extend(given.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        SourceSpec { options, format: "".into(), encode: "".into(), encode_options: vec![], columns: vec![] }
    }

    /// All rows of a bounded source, in steps of `rows_max`, each split restarted after every step.
    fn read(source: &dyn Source, projection: &[usize], rows_max: usize) -> Vec<arrow::array::RecordBatch> {
        let mut out = Vec::new();
        for (n, split) in source.splits().unwrap().iter().enumerate() {
            let mut at = split.start;
            loop {
                let mut reader = source.open(&split.id, n as u16, at, projection).unwrap();
                match reader.read(rows_max, Duration::ZERO).unwrap() {
                    Read::Records(records) => {
                        at = records.next;
                        out.push(records.batch.data().clone());
                    }
                    Read::Idle { next } => at = next,
                    Read::End { .. } => break,
                }
            }
        }
        out
    }

    fn bounded(table: &str, events: u64, splits: u64) -> Arc<dyn Source> {
        let (events, splits) = (events.to_string(), splits.to_string());
        let options = [
            ("nexmark.table.type", table),
            ("nexmark.event.num", &events),
            ("nexmark.split.num", &splits),
            ("nexmark.events.per.second", "0"),
        ];
        Connectors.open(&spec(&options)).unwrap()
    }

    #[test]
    fn makes_the_same_events_for_any_splits_and_steps() {
        let rows = |splits, step| {
            let batches = read(bounded("Bid", 1234, splits).as_ref(), &[0, 1, 2, 3, 4, 5, 6], step);
            let text = pretty_format_batches(&batches).unwrap().to_string();
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        let one = rows(1, 10_000);
        assert_eq!(one, rows(1, 7));
        assert_eq!(one, rows(3, 100));
        // 24 groups of 46 and 30 more.
        assert_eq!(one.len(), 4 + 24 * 46 + 30);
    }

    #[test]
    fn makes_persons_and_auctions() {
        let show = |table| {
            let source = bounded(table, 60, 1);
            let columns: Vec<usize> = (0..source.columns().len()).collect();
            pretty_format_batches(&[read(source.as_ref(), &columns, 2)[0].slice(0, 1)]).unwrap().to_string()
        };
        let person = show("Person");
        assert!(person.contains("| 1000 |") && person.contains('@'), "{person}");
        let auction = show("Auction");
        assert!(auction.contains("| 1000 |") && auction.contains("2026-01-01T00:00:00"), "{auction}");
        let all = show("");
        assert!(all.contains("\"credit_card\": "), "{all}");
    }

    #[test]
    fn is_skewed_as_the_definition_says() {
        let events = 500_000;
        let batches = read(bounded("Bid", events, 1).as_ref(), &[0, 1, 2, 3], 8192);
        let column = |i: usize| -> Vec<i64> {
            batches.iter().flat_map(|b| b.column(i).as_primitive::<Int64Type>().values().to_vec()).collect()
        };
        let (auctions, bidders, prices) = (column(0), column(1), column(2));
        let rows = auctions.len() as f64;
        let share = |n: usize| (n as f64 / rows * 100.0).round() as i64;
        let hot_auctions = share(auctions.iter().filter(|a| *a % 100 == 0).count());
        let hot_bidders = share(bidders.iter().filter(|b| *b % 100 == 1).count());
        let bands = [0..10_000, 10_000..1_000_000, 1_000_000..i64::MAX]
            .map(|band| share(prices.iter().filter(|p| band.contains(p)).count()));
        let hot = batches
            .iter()
            .flat_map(|b| b.column(3).as_string_view().iter().flatten().map(str::to_string).collect::<Vec<_>>())
            .fold(HashMap::<String, usize>::new(), |mut n, c| {
                *n.entry(c).or_default() += 1;
                n
            });
        let mut hottest: Vec<_> = hot.iter().filter(|(_, n)| **n > 10_000).map(|(c, _)| c.as_str()).collect();
        hottest.sort_unstable();
        let distinct: HashSet<i64> = auctions.iter().copied().collect();
        let actual = format!(
            "hot auctions {hot_auctions} %, hot bidders {hot_bidders} %, price bands {bands:?} %, hot channels \
             {hottest:?}, other channels {}, auctions {}, price {:?}",
            hot.len() - hottest.len() > 9000,
            distinct.len() > 25_000,
            prices.iter().min().zip(prices.iter().max()).map(|(min, max)| (*min < 110, *max > 90_000_000)),
        );
        expect![[r#"hot auctions 50 %, hot bidders 75 %, price bands [33, 33, 33] %, hot channels ["Apple", "Baidu", "Facebook", "Google"], other channels true, auctions true, price Some((true, true))"#]]
        .assert_eq(&actual);
    }

    #[test]
    fn bids_on_what_exists() {
        let n = 5_000;
        let ids = |table, column: usize| -> Vec<i64> {
            read(bounded(table, n, 1).as_ref(), &[column], 8192)
                .iter()
                .flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec())
                .collect()
        };
        assert_eq!(ids("Person", 0), (1000..1000 + n as i64 / 50).collect::<Vec<_>>());
        assert_eq!(ids("Auction", 0), (1000..1000 + n as i64 / 50 * 3).collect::<Vec<_>>());
        let last = 1000 + n as i64 / 50;
        assert!(ids("Bid", 1).iter().all(|bidder| (1000..last + 110).contains(bidder)));
        assert!(ids("Auction", 7).iter().all(|seller| (1000..last + 110).contains(seller)));
    }

    #[test]
    fn counts_without_columns_and_tells_rows_apart() {
        let source = bounded("Bid", 500, 2);
        let rows: usize = read(source.as_ref(), &[], 100).iter().map(|b| b.num_rows()).sum();
        assert_eq!(rows, 460);
        let ids: HashSet<i64> = read(source.as_ref(), &[7], 33)
            .iter()
            .flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert_eq!(ids.len(), 460);
        assert!(ids.iter().all(|id| id >> 48 < 2));
        let ends: Vec<_> = ["0", "1"].map(|s| source.end(s).unwrap().unwrap().0).to_vec();
        assert_eq!(ends, [250, 250]);
    }

    #[test]
    fn keeps_its_pace() {
        let mut reader = Connectors
            .open(&spec(&[("nexmark.table.type", "Bid"), ("nexmark.events.per.second", "1000")]))
            .unwrap()
            .open("0", 0, Offset(0), &[0])
            .unwrap();
        let started = Instant::now();
        let mut events = 0;
        while started.elapsed() < Duration::from_millis(300) {
            if let Read::Records(records) = reader.read(8192, Duration::from_millis(10)).unwrap() {
                events = records.next.0;
            }
        }
        assert!((200..400).contains(&events), "{events}");
    }

    #[test]
    fn fixes_the_moment() {
        let fixed = Connectors.prepare(&spec(&[("nexmark.table.type", "Bid"), ("nexmark.base.time", "now")])).unwrap();
        assert!(
            fixed
                .options
                .iter()
                .any(|(n, v)| n == "nexmark.base.time" && v.parse::<i64>().unwrap() > 1_700_000_000_000)
        );
        assert_eq!(Connectors.prepare(&fixed).unwrap(), fixed);
        assert_eq!(fixed.columns.len(), 7);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let mut unknown = spec(&[("nexmark.table.type", "Bid")]);
        unknown.columns = vec![Column::new("colour", SqlType::Text)];
        let error = Connectors.open(&unknown).err().unwrap().to_string();
        assert!(error.starts_with("a Nexmark event has no column \"colour\""), "{error}");
        unknown.columns = vec![Column::new("dateTime", SqlType::TimestampTz)];
        Connectors.open(&unknown).unwrap();
        let error = Connectors.open(&spec(&[("nexmark.table.type", "Bids")])).err().unwrap().to_string();
        assert_eq!(error, "option \"nexmark.table.type\" must be one of , bid, auction, person, not \"Bids\"");
    }

    /// `cargo test --release -p connectors nexmark_speed -- --nocapture` on a quiet machine.
    #[test]
    fn nexmark_speed() {
        for (what, projection) in [("auction", &[0][..]), ("all columns", &[0, 1, 2, 3, 4, 5, 6])] {
            let source = bounded("Bid", 1_000_000, 1);
            let mut reader = source.open("0", 0, Offset(0), projection).unwrap();
            let started = Instant::now();
            while let Read::Records(_) = reader.read(8192, Duration::ZERO).unwrap() {}
            println!("{what}: {:.3} µs/event", started.elapsed().as_secs_f64());
        }
    }
}
