//! Fail points: every step on the way to the disk or to a sink's target has a name, before and after which a test can end
//! the process, or let the step fail.
//!
//! ```text
//!  HEADWATER_FAILPOINTS=log/sync:before=abort            the process ends (SIGABRT) when it first comes here
//!                       checkpoint/write:after=abort@3   ... when it comes here for the third time
//!                       log/sync:before=fail,...         the step is not taken and answers an error, each time
//! ```
//!
//! Without the variable a step costs one look at a static. `sqllogictest/tests/system/steps.rs` ends a server at every
//! point of [`STEPS`], and `tests/tidy.rs` checks that no call that writes, syncs or renames stands outside of a step.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Every step, and what it does.
pub const STEPS: &[(&str, &str)] = &[
    ("format/write", "the version of a new data directory is written"),
    ("format/sync", "... and synced"),
    ("format/rename", "... and gets its name"),
    ("format/sync_folder", "... durably"),
    ("ingest/sweep", "files that a crash left on their way into the store are removed"),
    ("ingest/folder", "their folder is made anew"),
    ("checkpoint/write", "a small checkpoint is written, synced"),
    ("checkpoint/file", "a sorted file of a large checkpoint is finished, synced"),
    ("checkpoint/ingest", "all sorted files become part of the store"),
    ("drop/write", "the tables of what a large checkpoint dropped are removed"),
    ("purge/write", "what is in no catalog is removed at the start"),
    ("log/create", "a segment of the log of table writes is made"),
    ("log/write", "table writes are appended"),
    ("log/sync", "... and synced: now they are acknowledged"),
    ("log/undo", "what could not be written or synced is cut off again"),
    ("log/cut", "a torn tail is cut off at the start"),
    ("log/remove", "a segment that a checkpoint made superfluous is removed"),
    ("visible/write", "how far sources are visible is noted"),
    ("visible/cut", "a torn note is cut off at the start"),
    ("visible/remove", "notes that a checkpoint made superfluous are removed"),
    ("inbox/spill", "changes that wait for a slow view are spilled"),
    ("retry/keep", "records that are put through again are kept"),
    ("retry/enter", "... and become rows"),
    ("sink/deliver", "a sink's changes go to its target in one transaction"),
    ("kafka/commit", "the transaction of a Kafka sink is committed"),
    ("postgres/commit", "the transaction of a PostgreSQL sink is committed"),
    ("mysql/commit", "the transaction of a MySQL sink is committed"),
    ("file/create", "the manifest of a file sink is made"),
    ("file/sync", "the rows of a file sink's transaction are synced"),
    ("file/manifest", "the manifest tells of them"),
    ("file/rename", "their file gets its name"),
    ("file/cut", "a torn line of the manifest is cut off"),
    ("file/remove", "what was never told of is removed"),
    ("copy/folder", "the folder of a backup or savepoint is made"),
    ("copy/store", "the store is linked or copied into it"),
    ("copy/write", "what it holds is written beside it, synced"),
    ("copy/rename", "it gets its name, durably"),
    ("copy/remove", "a savepoint is removed"),
];

/// What an armed step does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Abort,
    Fail,
}

#[derive(Debug)]
struct Armed {
    step: String,
    before: bool,
    action: Action,
    /// At which time it acts, counted from 1.
    at: u32,
    seen: AtomicU32,
}

/// An error that a step can be made to answer.
pub trait Refused {
    /// The error of the step of this name.
    fn refused(step: &str) -> Self;
}

impl Refused for std::io::Error {
    fn refused(step: &str) -> Self {
        std::io::Error::other(format!("fail point {step}"))
    }
}

impl Refused for crate::Error {
    fn refused(step: &str) -> Self {
        crate::Error::Io(format!("fail point {step}"))
    }
}

/// Takes a step, unless a test has armed it.
///
/// # Errors
/// What `act` returns.
pub fn around<T, E: Refused>(step: &'static str, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let armed = armed();
    if armed.is_empty() {
        return act();
    }
    debug_assert!(STEPS.iter().any(|(name, _)| *name == step), "there is no step {step}");
    if hit(armed, step, true) {
        return Err(E::refused(step));
    }
    let done = act()?;
    if hit(armed, step, false) {
        return Err(E::refused(step));
    }
    Ok(done)
}

/// The moment before a step that is not one call.
pub fn before(step: &'static str) {
    hit(armed(), step, true);
}

/// The moment after it.
pub fn after(step: &'static str) {
    hit(armed(), step, false);
}

/// Whether a test waits for a step that needs rare conditions: whoever decides on it then decides for it.
pub fn is_wanted(step: &str) -> bool {
    armed().iter().any(|point| point.step == step)
}

fn armed() -> &'static [Armed] {
    static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();
    ARMED.get_or_init(|| match std::env::var("HEADWATER_FAILPOINTS") {
        Ok(text) => parse(&text).unwrap_or_else(|error| panic!("HEADWATER_FAILPOINTS: {error}")),
        Err(_) => Vec::new(),
    })
}

fn parse(text: &str) -> Result<Vec<Armed>, String> {
    text.split(',').filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<Armed, String> {
    let malformed = || format!("\"{text}\" is not <step>:before|after=abort|fail[@<n>]");
    let (point, action) = text.split_once('=').ok_or_else(malformed)?;
    let (step, side) = point.split_once(':').ok_or_else(malformed)?;
    if !STEPS.iter().any(|(name, _)| *name == step) {
        return Err(format!("there is no step \"{step}\""));
    }
    let (action, at) = match action.split_once('@') {
        Some((action, n)) => (action, n.parse().map_err(|_| malformed())?),
        None => (action, 1),
    };
    let action = match action {
        "abort" => Action::Abort,
        "fail" => Action::Fail,
        _ => return Err(malformed()),
    };
    let before = match side {
        "before" => true,
        "after" => false,
        _ => return Err(malformed()),
    };
    Ok(Armed { step: step.to_owned(), before, action, at, seen: AtomicU32::new(0) })
}

/// Whether the step is to fail here.
fn hit(armed: &[Armed], step: &str, before: bool) -> bool {
    let mut fails = false;
    for point in armed.iter().filter(|point| point.step == step && point.before == before) {
        let seen = point.seen.fetch_add(1, Ordering::Relaxed) + 1;
        match point.action {
            Action::Abort if seen == point.at => {
                eprintln!("fail point {step}:{}", if before { "before" } else { "after" });
                std::process::abort();
            }
            Action::Abort => {}
            Action::Fail => fails |= seen >= point.at,
        }
    }
    fails
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_is_told() {
        let armed = parse("log/sync:before=fail,checkpoint/write:after=abort@3").expect("two points");
        assert_eq!((armed[0].before, armed[0].action, armed[0].at), (true, Action::Fail, 1));
        assert_eq!((armed[1].before, armed[1].action, armed[1].at), (false, Action::Abort, 3));
        for wrong in
            ["log/sync", "log/sync=abort", "log/none:before=abort", "log/sync:beside=abort", "log/sync:after=x"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fails_from_its_time_on() {
        let armed = parse("log/sync:before=fail@2").expect("a point");
        let outcomes: Vec<bool> = (0..3).map(|_| hit(&armed, "log/sync", true)).collect();
        assert_eq!(outcomes, [false, true, true]);
        assert!(!hit(&armed, "log/sync", false) && !hit(&armed, "log/write", true));
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let mut names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
