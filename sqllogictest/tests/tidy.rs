//! The repository's own rules, as far as a machine can check them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which crate may use which: imports point down only.
const ARROWS: &[(&str, &[&str])] = &[
    ("storage", &[]),
    ("streaming", &["storage"]),
    ("planner", &["streaming", "storage"]),
    ("connectors", &["streaming", "storage"]),
    ("frontend", &["planner", "connectors", "streaming", "storage"]),
    ("sqllogictest", &["frontend", "planner", "streaming", "storage"]),
];

/// Each foreign library is named behind one door only: library, and the beginnings of the paths that are the door.
const DOORS: &[(&str, &[&str])] = &[
    ("timely", &["streaming/src/dataflow", "streaming/src/driver", "streaming/src/runtime"]),
    ("rocksdb", &["storage/src/store"]),
    ("datafusion", &["planner/", "streaming/src/expr", "streaming/src/testing", "streaming/src/aggregates"]),
    ("sqlparser", &["planner/"]),
    ("rdkafka", &["connectors/src/kafka", "connectors/tests/kafka", "sqllogictest/tests/system/"]),
    ("pgwire", &["frontend/src/pgwire"]),
    ("axum", &["frontend/src/http"]),
];

/// Names that say nothing, and words that this code base does not use for its own things.
const NAMES_REFUSED: &[&str] = &[
    "util", "utils", "common", "misc", "helpers", "helper", "mod", "barrier", "actor", "fragment", "executor", "chunk",
    "pipeline",
];

/// Operators that stand at the edge of a job and cannot be run alone: their truth is tested through the engine.
const OPERATORS_AT_THE_EDGE: &[&str] = &["source", "table_source", "tap_reader", "materialize"];

fn root() -> &'static Path {
    slt::repository()
}

/// All files of the repository that are not built or hidden.
fn files() -> Vec<PathBuf> {
    walkdir::WalkDir::new(root())
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            entry.depth() == 0 || !(name == "target" || name.starts_with('.'))
        })
        .map(|entry| entry.expect("the repository can be read"))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path())
        .collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a file of the repository").display().to_string()
}

fn rust_sources() -> Vec<(String, String)> {
    let sources = files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    sources.map(|path| (relative(&path), read(&path))).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text without comments, roughly: what stands after `//`.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn assert_none(problems: Vec<String>, rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn crates_import_downwards_only() {
    let members: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let mut problems = Vec::new();
    for (name, allowed) in ARROWS {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            }
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if in_dependencies && members.contains(dependency) && !allowed.contains(&dependency) {
                problems.push(format!("{name} -> {dependency}"));
            }
        }
    }
    assert_none(problems, "frontend -> planner, connectors -> streaming -> storage");
}

#[test]
fn foreign_libraries_have_one_door() {
    let mut problems = Vec::new();
    for (path, text) in rust_sources() {
        if path == "sqllogictest/tests/tidy.rs" || path.starts_with("streaming/tests/") {
            continue;
        }
        // What only tests use is not part of the house; a value is not a planner.
        let text = code(text.split("#[cfg(test)]").next().unwrap_or_default());
        let text = text.replace("datafusion::common::ScalarValue", "ScalarValue");
        for (library, doors) in DOORS {
            let used = text.contains(&format!("{library}::")) || text.contains(&format!("use {library}"));
            // `planner::rocksdb::x` would be ours; only the crate itself counts.
            let ours = !text.match_indices(&format!("{library}::")).any(|(at, _)| {
                let before = text[..at].chars().next_back().unwrap_or(' ');
                !(before.is_alphanumeric() || before == '_' || before == ':')
            });
            if used && !ours && !doors.iter().any(|door| path.starts_with(door)) {
                problems.push(format!("{path} names {library}; its door is {}", doors.join(", ")));
            }
        }
    }
    assert_none(problems, "one door per foreign library");
}

#[test]
fn the_code_map_is_the_tree() {
    let architecture = read(&root().join("ARCHITECTURE.md"));
    let map = architecture.split("## Code map").nth(1).expect("ARCHITECTURE.md has a code map");
    let map = map.split("\n## ").next().unwrap_or_default();
    let mut drawn = BTreeSet::new();
    for line in map.lines() {
        if let Some(rest) = line.strip_prefix("- `")
            && let Some((path, _)) = rest.split_once('`')
            && path.ends_with(".rs")
        {
            drawn.insert(path.to_string());
        }
    }
    let mut there = BTreeSet::new();
    for (name, _) in ARROWS {
        for entry in std::fs::read_dir(root().join(name).join("src")).expect("a crate has src/").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                there.insert(relative(&entry.path()));
            }
        }
    }
    let missing: Vec<&String> = there.difference(&drawn).collect();
    let gone: Vec<&String> = drawn.difference(&there).collect();
    assert!(missing.is_empty() && gone.is_empty(), "the code map lacks {missing:?} and still has {gone:?}");
}

#[test]
fn invariants_that_code_cites_exist() {
    let architecture = read(&root().join("ARCHITECTURE.md"));
    let mut problems = Vec::new();
    for (path, text) in rust_sources().into_iter().filter(|(path, _)| path != "sqllogictest/tests/tidy.rs") {
        for (at, _) in text.match_indices("// Invariant ") {
            let number: String = text[at + 13..].chars().take_while(char::is_ascii_digit).collect();
            if !architecture.contains(&format!("**Invariant {number}.")) {
                problems.push(format!("{path}: Invariant {number}"));
            }
        }
    }
    assert_none(problems, "an invariant that ARCHITECTURE.md does not state");
}

#[test]
fn every_suite_is_run() {
    let mut problems = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "slt")) {
        let name = relative(&path);
        if !name.starts_with("sqllogictest/suites/") {
            problems.push(format!("{name} is outside of sqllogictest/suites"));
        }
        match slt::script::parse(&read(&path)) {
            Ok(records) if records.is_empty() => problems.push(format!("{name} is empty")),
            Ok(_) => {}
            Err(error) => problems.push(format!("{name}: {error:#}")),
        }
    }
    assert_none(problems, "suites that are not run");
}

#[test]
fn every_operator_has_its_oracle() {
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(root().join("streaming/src/operators")).expect("operators").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let tests = path.with_extension("").join("tests.rs");
        let text = read(&path) + &std::fs::read_to_string(tests).unwrap_or_default();
        if !text.contains("oracle!") && !OPERATORS_AT_THE_EDGE.contains(&name.as_str()) {
            problems.push(relative(&path));
        }
    }
    assert_none(problems, "operators without an oracle! line");
}

#[test]
fn names_say_something() {
    let mut problems = Vec::new();
    for path in files() {
        let name = relative(&path);
        if !name.ends_with(".rs") && !name.ends_with(".slt") {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        if stem.split(['_', '-']).any(|word| NAMES_REFUSED.contains(&word)) {
            problems.push(name);
        }
    }
    assert_none(problems, "file names that say nothing or use a word that is not ours");
}

#[test]
fn no_test_is_ignored() {
    let refused = ["#[ignore", "#[cfg_attr(any(), test"];
    let sources = rust_sources().into_iter().filter(|(path, _)| path != "sqllogictest/tests/tidy.rs");
    let problems = sources.filter(|(_, text)| refused.iter().any(|word| code(text).contains(word)));
    assert_none(problems.map(|(path, _)| path).collect(), "a test that is wrong today asserts the wrong answer");
}

#[test]
fn unsafe_code_has_its_proof() {
    let mut problems = Vec::new();
    for (path, text) in rust_sources().into_iter().filter(|(path, _)| path != "sqllogictest/tests/tidy.rs") {
        let n_allowed = code(&text).matches("allow(unsafe_code)").count();
        let n_proofs = text.matches("SAFETY:").count();
        if n_proofs < n_allowed {
            problems.push(format!("{path}: {n_allowed} allowed, {n_proofs} proofs"));
        }
    }
    assert_none(problems, "`#[allow(unsafe_code)]` needs a `// SAFETY:` beside it");
}

#[test]
fn every_file_begins_with_a_sentence() {
    let sources = rust_sources()
        .into_iter()
        .filter(|(path, text)| path.contains("/src/") && !text.starts_with("//!") && !path.ends_with("/tests.rs"));
    assert_none(sources.map(|(path, _)| path).collect(), "a file begins with `//!` and says what it is");
}

#[test]
fn links_in_pages_lead_somewhere() {
    let mut problems = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = read(&path);
        for (at, _) in text.match_indices("](") {
            let target: String = text[at + 2..].chars().take_while(|c| *c != ')').collect();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if !path.parent().expect("a page is in a folder").join(file).exists() {
                problems.push(format!("{}: {target}", relative(&path)));
            }
        }
    }
    assert_none(problems, "links to what is not there");
}

#[test]
fn one_version_of_what_crosses_crates() {
    let lock = read(&root().join("Cargo.lock"));
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = \"").and_then(|rest| rest.strip_suffix('"')) {
            *versions.entry(name).or_default() += 1;
        }
    }
    let problems = ["arrow", "sqlparser", "object_store", "datafusion", "timely", "tokio"]
        .iter()
        .filter(|name| versions.get(**name).copied().unwrap_or(0) > 1)
        .map(|name| name.to_string());
    assert_none(problems.collect(), "more than one version in Cargo.lock");
}
