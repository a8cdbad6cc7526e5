//! Inputs that are nearly right: seeds with something changed, left out, repeated or put together.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// No input is longer.
const LENGTH_MAX: usize = 1 << 16;
/// How often a part is repeated at most.
const TIMES_MAX: usize = 3000;
/// Numbers at the ends of what types hold.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "127",
    "32768",
    "2147483647",
    "2147483648",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551616",
    "1e400",
    "0.00000000000000000000000000000000000000001",
    "99999999999999999999999999999999999999999",
];
const BYTES: [u8; 12] = [0, 1, 2, 0x7f, 0x80, 0xc0, 0xed, 0xff, b'"', b'\'', b'\\', b'\n'];

/// Makes inputs of seeds.
pub struct Mutator<'a> {
    random: StdRng,
    words: &'a [&'a str],
}

impl<'a> Mutator<'a> {
    /// The same inputs for the same seed.
    pub fn new(seed: u64, words: &'a [&'a str]) -> Mutator<'a> {
        Mutator { random: StdRng::seed_from_u64(seed), words }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n.max(1))
    }

    /// A part of something of so many bytes; mostly a short one.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let most = if self.random.random_bool(0.7) { 12 } else { length };
        from..(from + self.below(most + 1)).min(length)
    }

    /// The next input.
    pub fn make(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let chosen = self.below(seeds.len());
        let mut input = seeds[chosen].clone();
        for _ in 0..1 + self.below(5) {
            self.change(&mut input, seeds);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let part = self.part(input.len());
        match self.below(11) {
            0 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] ^= 1 << self.below(8);
            }
            1 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] = BYTES[self.below(BYTES.len())];
            }
            2 => drop(input.drain(part)),
            3 => {
                let copy = input[part.clone()].to_vec();
                let at = self.below(input.len() + 1);
                input.splice(at..at, copy);
            }
            4 => {
                let times = 1 + self.below(TIMES_MAX);
                let times = if self.random.random_bool(0.8) { times % 8 } else { times };
                let copy = input[part.clone()].repeat(times);
                input.splice(part.end..part.end, copy.into_iter().take(LENGTH_MAX));
            }
            5 | 6 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())].as_bytes();
                let at = if self.random.random_bool(0.5) { part } else { part.start..part.start };
                input.splice(at, word.iter().copied());
            }
            7 => {
                let number = NUMBERS[self.below(NUMBERS.len())];
                // In place of a number, if there is one.
                let is_digit = |(_, byte): &(usize, &u8)| byte.is_ascii_digit();
                let digits: Vec<usize> = input.iter().enumerate().filter(is_digit).map(|(at, _)| at).collect();
                let from = if digits.is_empty() { part.start } else { digits[self.below(digits.len())] };
                let rest = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                input.splice(from..from + rest, number.bytes());
            }
            8 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.part(other.len());
                input.splice(part, other[from].iter().copied());
            }
            9 => {
                let value: u32 = self.random.random();
                let value = if self.random.random_bool(0.5) { value } else { value % 64 };
                let bytes = value.to_be_bytes();
                let end = (part.start + 4).min(input.len());
                input.splice(part.start..end, bytes);
            }
            _ => {
                let other = &seeds[self.below(seeds.len())];
                input.extend_from_slice(other);
            }
        }
    }
}

/// The bytes of a line of a corpus.
pub fn unescape(line: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), line.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().expect("an escape has a letter") {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'x' => {
                let mut digit = || (rest.next().expect("two digits") as char).to_digit(16).expect("a digit") as u8;
                bytes.push(digit() << 4 | digit());
            }
            other => bytes.push(other),
        }
    }
    bytes
}

#[test]
fn lines_are_what_they_were() {
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(unescape(&all.escape_ascii().to_string()), all);
}
