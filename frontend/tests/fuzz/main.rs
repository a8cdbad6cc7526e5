//! Bytes from outside: whatever they are, nothing panics, nothing hangs and nothing takes memory without bound.
//!
//! Each test is a target: a function of bytes, and seeds in `corpus/`, one per line (bytes as in a Rust literal). It takes the
//! seeds, and then so many inputs that are made of them. `HEADWATER_FUZZ_SECONDS` makes a target go on for so long,
//! `HEADWATER_FUZZ_SEED` says which inputs are made (`make fuzz`). An input that fails is printed as a line for the corpus.

mod memory;
mod mutate;
mod options;
mod records;
mod sql;
mod stored;
mod wire;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::mutate::Mutator;

/// What one input may take at most, with what the harness itself needs.
const BYTES_MAX: usize = 256 << 20;
/// What one input may take at most: far more than any does, also in a build that is not optimised, on a machine that is busy.
const TIME_MAX: Duration = Duration::from_secs(600);

/// One at a time: what one takes is not counted for another.
static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/corpus/{target}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().filter(|line| !line.is_empty()).map(mutate::unescape).collect()
}

/// Gives `check` the seeds of a target, and `inputs` more that are made of them and of `words`.
fn drive(target: &str, inputs: u64, words: &[&str], mut check: impl FnMut(&[u8])) {
    let _turn = TURN.lock();
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let seed = number("HEADWATER_FUZZ_SEED").unwrap_or(1);
    let until = number("HEADWATER_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    // What ends the process is found there.
    let mut last = until.map(|_| {
        let path = std::env::temp_dir().join(format!("headwater-fuzz-{target}"));
        eprintln!("{target}: the input under way is in {}", path.display());
        (std::fs::File::create(&path).expect("a temporary file"), path)
    });
    let mut mutator = Mutator::new(seed, words);
    let mut n = 0_u64;
    loop {
        let input = match seeds.get(n as usize) {
            Some(seed) => seed.clone(),
            None => mutator.make(&seeds),
        };
        if let Some((file, _)) = &mut last {
            use std::io::Seek as _;
            file.rewind().and_then(|()| file.set_len(0)).expect("the file is there");
            file.write_all(input.escape_ascii().to_string().as_bytes()).expect("the file is there");
        }
        let begun = Instant::now();
        let before = memory::begin();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| check(&input)));
        let (taken, took) = (memory::peak().saturating_sub(before), begun.elapsed());
        let told = || format!("{target}, input {n} of seed {seed}:\n{}", input.escape_ascii());
        if let Err(panic) = result {
            eprintln!("{}", told());
            std::panic::resume_unwind(panic);
        }
        assert!(taken < BYTES_MAX, "{taken} bytes\n{}", told());
        assert!(took < TIME_MAX, "{took:?}\n{}", told());
        n += 1;
        let is_over = match until {
            None => n >= seeds.len() as u64 + inputs,
            Some(until) => Instant::now() >= until,
        };
        if is_over {
            break;
        }
    }
    if let Some((_, path)) = last {
        std::fs::remove_file(path).expect("it was made above");
        eprintln!("{target}: {n} inputs, seed {seed}, clean");
    }
}
