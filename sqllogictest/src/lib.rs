//! Tests the whole system through SQL: the runner of `.slt` suites.
//!
//! A suite is a [`script`]: statements and queries with what they must answer. The [`run`]ner sends them over the wire
//! to a [`target`]: a Headwater server inside this process (with one or two workers, or crashing and recovering after
//! every `FLUSH`), or a real Postgres. After every `FLUSH` and restart, and at the end, every materialized view over tables is
//! compared with its own query run in batch: that is the rule that the whole engine obeys.
//!
//! This crate does not know how anything works inside; what it cannot see from a client is tested beside the code.
//!
//! ```
//! let script = slt::script::parse("query I\nSELECT 1\n----\n1\n").unwrap();
//! assert_eq!(script.len(), 1);
//! ```

pub mod answers;
pub mod both;
pub mod fuzz;
pub mod markdown;
pub mod process;
pub mod run;
pub mod script;
pub mod services;
pub mod target;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The root of the repository: of the clone that cargo runs in, as one target folder can serve several clones, and a
/// program that was built in another one is not built anew for a new path alone.
pub fn repository() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&package).parent().expect("the package is a folder of the repository").to_path_buf()
    });
    &ROOT
}

/// All suites below `folder`, sorted by name.
pub fn suites(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "slt") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
