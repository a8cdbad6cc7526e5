//! Answers that are remembered for a while: the least recently used one goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::CacheLimits;
use super::answers::Answer;

/// Answers by key.
pub struct Cache {
    limits: CacheLimits,
    entries: HashMap<Vec<u8>, Remembered>,
    /// Keys by when they were last used.
    used: BTreeMap<u64, Vec<u8>>,
    clock: u64,
    rows: usize,
}

struct Remembered {
    used: u64,
    asked: Instant,
    answer: Arc<Answer>,
}

fn weight(answer: &Answer) -> usize {
    answer.rows.len().max(1)
}

impl Cache {
    pub fn new(limits: CacheLimits) -> Cache {
        Cache { limits, entries: HashMap::new(), used: BTreeMap::new(), clock: 0, rows: 0 }
    }

    /// What was answered of `key`, if that is not too long ago.
    pub fn get(&mut self, key: &[u8], now: Instant) -> Option<Arc<Answer>> {
        let entry = self.entries.get_mut(key)?;
        if now.saturating_duration_since(entry.asked) >= self.limits.ttl {
            self.remove(key);
            return None;
        }
        self.clock += 1;
        self.used.remove(&entry.used);
        entry.used = self.clock;
        self.used.insert(self.clock, key.to_vec());
        Some(entry.answer.clone())
    }

    /// Remembers an answer.
    pub fn put(&mut self, key: &[u8], answer: Arc<Answer>, now: Instant) {
        self.remove(key);
        // A key whose rows cannot be read may be mended outside at any time.
        if weight(&answer) > self.limits.max_rows || answer.refused.is_some() {
            return;
        }
        self.clock += 1;
        self.rows += weight(&answer);
        self.used.insert(self.clock, key.to_vec());
        self.entries.insert(key.to_vec(), Remembered { used: self.clock, asked: now, answer });
        while self.rows > self.limits.max_rows
            && let Some((_, oldest)) = self.used.first_key_value()
        {
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.used.remove(&entry.used);
            self.rows -= weight(&entry.answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn forgets_what_is_old_or_too_much() {
        let mut cache = Cache::new(CacheLimits { max_rows: 3, ttl: Duration::from_secs(5) });
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let answer = |n| Arc::new(Answer { rows: vec![vec![]; n], refused: None });
        let begun = at(0);
        cache.put(b"a", answer(1), begun);
        cache.put(b"b", answer(0), begun);
        assert!(cache.get(b"a", begun).is_some());
        cache.put(b"c", answer(2), begun + Duration::from_secs(1));
        assert!(cache.get(b"b", begun).is_none(), "the least recently used one went");
        assert!(cache.get(b"a", begun + Duration::from_secs(4)).is_some());
        assert!(cache.get(b"a", begun + Duration::from_secs(5)).is_none());
        assert!(cache.get(b"c", begun + Duration::from_secs(5)).is_some());
        cache.put(b"d", answer(4), begun);
        assert!(cache.get(b"d", begun).is_none(), "it alone is too much");
        let mut none = Cache::new(CacheLimits::default());
        none.put(b"a", answer(0), begun);
        assert!(none.get(b"a", begun).is_none());
    }
}
