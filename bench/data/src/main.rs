//! Makes the benchmark's input: `nexmark-data EVENTS FOLDER` writes Nexmark events as JSON lines, the same bytes on every
//! machine, and prints `first_200000 SHA-256` and `all SHA-256` of the wide lines in their order, each with its line end.
//!
//! Event `i` goes to file `i % 2` of its kind:
//!
//! - `wide/{0,1}.jsonl`: every event in one row with the three nested objects of the Nexmark project's table, two of them null;
//! - `person/`, `auction/` and `bid/{0,1}.jsonl`: the same events, one file pair per type, flat, named as in `bench/nexmark/tables.sql`.
//!
//! 100,000 events are one second of event time, which begins with 2026. States, cities and names are capitalised, as the
//! original generator writes them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;
use sha2::{Digest, Sha256};

const BASE_TIME_MS: u64 = 1_767_225_600_000;
const EVENTS_PER_SECOND: usize = 100_000;
/// The hash over so many lines is known too, so that a short run can be checked.
const FIRST: usize = 200_000;
const FILES: usize = 2;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(events), Some(folder)) = (arguments.next().and_then(|n| n.parse().ok()), arguments.next()) else {
        eprintln!("usage: nexmark-data EVENTS FOLDER");
        std::process::exit(2);
    };
    make(events, Path::new(&folder))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(String::from).collect()
}

fn make(events: usize, folder: &Path) -> Result<()> {
    let config = NexmarkConfig {
        base_time: BASE_TIME_MS,
        first_rate: EVENTS_PER_SECOND,
        next_rate: EVENTS_PER_SECOND,
        us_states: list("AZ,CA,ID,OR,WA,WY"),
        us_cities: list("Phoenix,Los Angeles,San Francisco,Boise,Portland,Bend,Redmond,Seattle,Kent,Cheyenne"),
        first_names: list("Peter,Paul,Luke,John,Saul,Vicky,Kate,Julie,Sarah,Deiter,Walter"),
        last_names: list("Shultz,Abrams,Spencer,White,Bartels,Walton,Smith,Jones,Noris"),
        ..NexmarkConfig::default()
    };
    let open = |kind: &str| -> Result<Vec<BufWriter<File>>> {
        std::fs::create_dir_all(folder.join(kind))?;
        (0..FILES)
            .map(|n| Ok(BufWriter::with_capacity(1 << 20, File::create(folder.join(kind).join(format!("{n}.jsonl")))?)))
            .collect()
    };
    let (mut wide, mut person, mut auction, mut bid) = (open("wide")?, open("person")?, open("auction")?, open("bid")?);
    let mut hash = Sha256::new();
    let (mut line, mut flat) = (String::new(), String::new());
    for (n, event) in EventGenerator::new(config).take(events).enumerate() {
        line.clear();
        flat.clear();
        let file = n % FILES;
        let own = match &event {
            Event::Person(e) => {
                fields(&mut line, &mut flat, "person", 0, |w| {
                    w.number("id", "id", e.id);
                    w.text("name", "name", &e.name);
                    w.text("emailAddress", "email_address", &e.email_address);
                    w.text("creditCard", "credit_card", &e.credit_card);
                    w.text("city", "city", &e.city);
                    w.text("state", "state", &e.state);
                    w.time("dateTime", "date_time", e.date_time);
                    w.text("extra", "extra", &e.extra);
                });
                &mut person[file]
            }
            Event::Auction(e) => {
                fields(&mut line, &mut flat, "auction", 1, |w| {
                    w.number("id", "id", e.id);
                    w.text("itemName", "item_name", &e.item_name);
                    w.text("description", "description", &e.description);
                    w.number("initialBid", "initial_bid", e.initial_bid);
                    w.number("reserve", "reserve", e.reserve);
                    w.time("dateTime", "date_time", e.date_time);
                    w.time("expires", "expires", e.expires);
                    w.number("seller", "seller", e.seller);
                    w.number("category", "category", e.category);
                    w.text("extra", "extra", &e.extra);
                });
                &mut auction[file]
            }
            Event::Bid(e) => {
                fields(&mut line, &mut flat, "bid", 2, |w| {
                    w.number("auction", "auction", e.auction);
                    w.number("bidder", "bidder", e.bidder);
                    w.number("price", "price", e.price);
                    w.text("channel", "channel", &e.channel);
                    w.text("url", "url", &e.url);
                    w.time("dateTime", "date_time", e.date_time);
                    w.text("extra", "extra", &e.extra);
                });
                &mut bid[file]
            }
        };
        own.write_all(flat.as_bytes())?;
        wide[file].write_all(line.as_bytes())?;
        hash.update(line.as_bytes());
        if n + 1 == FIRST {
            println!("first_{FIRST} {:x}", hash.clone().finalize());
        }
    }
    println!("all {:x}", hash.finalize());
    for file in [wide, person, auction, bid].iter_mut().flatten() {
        file.flush()?;
    }
    Ok(())
}

/// Writes one event in both forms: as `{"event_type":2,"person":null,...}` and as its own object.
fn fields(wide: &mut String, flat: &mut String, own: &str, event_type: u8, write: impl FnOnce(&mut Fields<'_>)) {
    let _ = write!(wide, "{{\"event_type\":{event_type}");
    let mut write = Some(write);
    for kind in ["person", "auction", "bid"] {
        let _ = write!(wide, ",\"{kind}\":");
        match write.take_if(|_| kind == own) {
            Some(write) => {
                write(&mut Fields { wide, flat, first: true });
                wide.push('}');
                flat.push_str("}\n");
            }
            None => wide.push_str("null"),
        }
    }
    wide.push_str("}\n");
}

/// One object, written twice with two sets of names.
struct Fields<'a> {
    wide: &'a mut String,
    flat: &'a mut String,
    first: bool,
}

impl Fields<'_> {
    fn both(&mut self, wide: &str, flat: &str, value: std::fmt::Arguments<'_>) {
        let before = if std::mem::take(&mut self.first) { '{' } else { ',' };
        let _ = write!(self.wide, "{before}\"{wide}\":{value}");
        let _ = write!(self.flat, "{before}\"{flat}\":{value}");
    }

    fn number(&mut self, wide: &str, flat: &str, value: usize) {
        self.both(wide, flat, format_args!("{value}"));
    }

    /// The generator's texts have no character that JSON would escape.
    fn text(&mut self, wide: &str, flat: &str, value: &str) {
        assert!(!value.contains(['"', '\\']) && !value.chars().any(char::is_control), "{value:?} needs an escape");
        self.both(wide, flat, format_args!("\"{value}\""));
    }

    fn time(&mut self, wide: &str, flat: &str, ms: u64) {
        let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
        let (year, month, day) = civil(days);
        let (seconds, ms) = (of_day / 1000, of_day % 1000);
        self.both(
            wide,
            flat,
            format_args!(
                "\"{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{ms:03}\"",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            ),
        );
    }
}

/// Days since 1970-01-01 as year, month and day (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}
