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
    ("prometheus_client", &["frontend/src/http"]),
    ("clap", &["frontend/src/commands", "frontend/src/main"]),
    ("tokio_postgres", &["connectors/src/postgres", "frontend/src/commands", "frontend/tests/", "sqllogictest/"]),
];

/// Names that say nothing, and words that this code base does not use for its own things.
const NAMES_REFUSED: &[&str] = &[
    "util", "utils", "common", "misc", "helpers", "helper", "mod", "barrier", "actor", "fragment", "executor", "chunk",
    "pipeline",
];

/// Operators that stand at the edge of a job and cannot be run alone: their truth is tested through the engine.
const OPERATORS_AT_THE_EDGE: &[&str] = &["source", "table_source", "tap_reader", "materialize", "sink"];

/// Operators whose output depends on when rows come, or watermarks: no query in batch says the same, a model in their tests
/// does.
const OPERATORS_OF_THE_MOMENT: &[&str] = &["lookup_join", "temporal_join", "versioned_join"];

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

/// The first sentence of a file's header, without links.
fn first_sentence(text: &str) -> String {
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let paragraph = header.split(|line| line.is_empty()).next().unwrap_or_default().join(" ");
    let end = paragraph.find(". ").unwrap_or(paragraph.len());
    paragraph[..end].trim_end_matches('.').replace("[`", "`").replace("`]", "`")
}

/// The lines of the code map for a crate: what stands in `src/`, `lib.rs` first.
fn code_map(name: &str) -> Vec<String> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join(name).join("src"))
        .expect("a crate has src/")
        .map(|entry| entry.expect("src/ can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    paths.sort_by_key(|path| (!path.ends_with("lib.rs"), path.clone()));
    paths.iter().map(|path| format!("- `{}` {}", relative(path), first_sentence(&read(path)))).collect()
}

/// `UPDATE_EXPECT=1` writes the lines anew.
#[test]
fn the_code_map_is_the_tree() {
    let path = root().join("ARCHITECTURE.md");
    let architecture = read(&path);
    let (before, map) = architecture.split_once("## Code map\n").expect("ARCHITECTURE.md has a code map");
    let mut paragraphs: Vec<String> = map.split("\n\n").map(str::to_string).collect();
    for (name, _) in ARROWS {
        let lines = code_map(name).join("\n");
        let begins = format!("- `{name}/");
        let at = paragraphs.iter().position(|paragraph| paragraph.starts_with(&begins));
        paragraphs[at.unwrap_or_else(|| panic!("the code map has no lines for {name}"))] = lines;
    }
    let wanted = format!("{before}## Code map\n{}\n", paragraphs.join("\n\n").trim_end());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &wanted).expect("ARCHITECTURE.md can be written");
        return;
    }
    let lines = |text: &str| text.lines().map(str::to_string).collect::<BTreeSet<_>>();
    let (have, want) = (lines(&architecture), lines(&wanted));
    let problems = want.difference(&have).map(|line| format!("lacks {line}"));
    let problems = problems.chain(have.difference(&want).map(|line| format!("still has {line}")));
    assert_none(
        problems.collect(),
        "the code map of ARCHITECTURE.md is the tree (write it with UPDATE_EXPECT=1 cargo test -p slt --test tidy)",
    );
}

#[test]
fn every_source_file_is_part_of_its_crate() {
    let mut problems = Vec::new();
    for (path, _) in rust_sources() {
        let Some((name, below)) = path.split_once("/src/") else { continue };
        let file = Path::new(below);
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if below == "lib.rs" || below == "main.rs" {
            continue;
        }
        let parent = file.parent().expect("a relative path has a parent");
        let parents = match parent.as_os_str().is_empty() {
            true => vec![format!("{name}/src/lib.rs"), format!("{name}/src/main.rs")],
            false => vec![format!("{name}/src/{}.rs", parent.display())],
        };
        // `mod x;`, or `x::X,` in a list whose macro declares it.
        let declares = |line: &str| {
            let line = line.trim();
            // With any visibility: `pub`, `pub(crate)`, `pub(in crate::operators)`.
            let line = match line.strip_prefix("pub(") {
                Some(rest) => rest.split_once(") ").map_or(line, |(_, rest)| rest),
                None => line.trim_start_matches("pub "),
            };
            line == format!("mod {stem};") || line.starts_with(&format!("{stem}::")) || line == format!("mod {stem} {{")
        };
        let declared = parents.iter().any(|parent| {
            let text = std::fs::read_to_string(root().join(parent)).unwrap_or_default();
            code(&text).lines().any(declares)
        });
        if !declared {
            problems.push(format!("{path} is declared in none of {}", parents.join(", ")));
        }
    }
    assert_none(problems, "files that nothing compiles");
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
    let run: BTreeSet<PathBuf> = slt::suites(&slt::target::suites_folder()).into_iter().collect();
    let mut problems = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "slt")) {
        let name = relative(&path);
        if !run.contains(&path) {
            problems.push(format!("{name} is not what tests/suites.rs runs"));
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
fn every_test_target_is_run() {
    let mut problems = Vec::new();
    let makefile = read(&root().join("Makefile"));
    let words: Vec<&str> = makefile.split_whitespace().collect();
    for (name, _) in ARROWS {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        for switch in ["autotests = false", "test = false"] {
            if manifest.contains(switch) {
                problems.push(format!("{name}/Cargo.toml: {switch}"));
            }
        }
        // `tests/<folder>/` is a target only if it has a main.rs.
        let Ok(entries) = std::fs::read_dir(root().join(name).join("tests")) else { continue };
        for path in entries.map(|entry| entry.expect("tests/ can be read").path()) {
            let target = path.file_stem().expect("a name").to_string_lossy();
            let is_target = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").exists();
            if is_target && !words.windows(2).any(|pair| pair == ["--test", &*target]) {
                problems.push(format!("the Makefile does not run {}", relative(&path)));
            }
            if !path.is_dir() {
                continue;
            }
            let has_rust =
                files().iter().any(|file| file.starts_with(&path) && file.extension().is_some_and(|e| e == "rs"));
            if has_rust && !path.join("main.rs").exists() {
                problems.push(format!("{} has no main.rs", relative(&path)));
            }
        }
    }
    assert_none(problems, "tests that cargo does not run");
}

#[test]
fn every_operator_has_its_oracle() {
    let mut problems = Vec::new();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("streaming/src/operators")).expect("operators") {
        let path = entry.expect("operators can be read").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let tests = path.with_extension("").join("tests.rs");
        let text = code(&(read(&path) + &std::fs::read_to_string(tests).unwrap_or_default()));
        let at_the_edge = [OPERATORS_AT_THE_EDGE, OPERATORS_OF_THE_MOMENT].concat().contains(&name.as_str());
        if text.contains("oracle!(") == at_the_edge {
            let problem =
                if at_the_edge { "has an oracle and is listed as one that cannot" } else { "has no oracle! line" };
            problems.push(format!("{} {problem}", relative(&path)));
        }
        found.insert(name);
    }
    let listed = code(&read(&root().join("streaming/src/operators.rs")));
    let listed = listed.split("operators! {").nth(1).and_then(|rest| rest.split('}').next()).expect("the list");
    for name in listed.split(',').filter_map(|line| Some(line.split_once("::")?.0.trim())) {
        if !found.remove(name) {
            problems.push(format!("{name} is in the list and has no file of its own"));
        }
    }
    problems.extend(found.iter().map(|name| format!("{name} is not in the list of streaming/src/operators.rs")));
    assert_none(problems, "an operator is one file with an oracle! line, and a line of the list");
}

/// What the durable state, or a sink's target, depends on.
const DURABLE_FILES: &[&str] = &[
    "storage/src/store",
    "storage/src/log.rs",
    "streaming/src/visible.rs",
    "streaming/src/inbox.rs",
    "streaming/src/outbox/delivery.rs",
    "connectors/src/",
];

/// Calls that change what is on a disk or in a target.
const DURABLE_CALLS: &[&str] = &[
    "sync_all(",
    "sync_data(",
    "fs::rename(",
    "remove_file(",
    "remove_dir_all(",
    ".set_len(",
    "db.write(",
    "ingest_external_file_opts(",
    ".create_checkpoint(",
    "hard_link(",
    "fs::copy(",
    "file.write_all(",
    "manifest.write_all(",
    "write_all_at(",
    "file.finish()",
    ".commit()",
    ".commit_transaction(",
    ".deliver(&mut",
];

/// Calls that need no step: what they leave is seen by nobody, or is not yet told of.
const STEPLESS: &[(&str, &str)] = &[
    ("storage/src/store.rs", "let _ = fs::remove_file(file)"),
    ("storage/src/store.rs", "file.set_len(0)"),
    ("storage/src/store/copy.rs", "let _ = fs::remove_dir_all(&partial)"),
    ("storage/src/store/copy.rs", "match fs::remove_dir_all(&partial)"),
    ("storage/src/store/copy.rs", "File::open(path)?.sync_all()"),
    ("connectors/src/file/sink.rs", "File::open(path)?.sync_all()"),
    // Inside the transaction whose commit is a step.
    ("connectors/src/postgres.rs", "savepoint.commit()"),
];

/// A step may be a closure that is defined before it is taken.
const STEP_LINES: usize = 16;

#[test]
fn every_durable_step_has_its_fail_point() {
    let mut problems = Vec::new();
    let mut named = BTreeSet::new();
    for (path, text) in rust_sources() {
        if path.starts_with("sqllogictest/") || path == "storage/src/failpoint.rs" {
            continue;
        }
        let text = code(text.split("#[cfg(test)]").next().unwrap_or_default());
        for call in ["around(\"", "failpoint::before(\"", "failpoint::after(\""] {
            for (at, _) in text.match_indices(call) {
                named.insert(text[at + call.len()..].split('"').next().unwrap_or_default().to_string());
            }
        }
        if !DURABLE_FILES.iter().any(|file| path.starts_with(file)) || path.ends_with("/tests.rs") {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let free = STEPLESS.iter().any(|(file, call)| *file == path && line.contains(call));
            if free || !DURABLE_CALLS.iter().any(|call| line.contains(call)) {
                continue;
            }
            // Within the same function: back to where it begins, and on to where a closure is taken.
            let begins =
                lines[..n].iter().rposition(|line| line.trim_start().starts_with("fn ") || line.contains(" fn "));
            let from = begins.unwrap_or(0).max(n.saturating_sub(STEP_LINES));
            let to = (n + STEP_LINES).min(lines.len());
            let ends = lines[n..to].iter().position(|line| *line == "    }" || *line == "}");
            let around = &lines[from..ends.map_or(to, |end| n + end)];
            if !around.iter().any(|line| line.contains("around(\"") || line.contains("failpoint::before(\"")) {
                problems.push(format!("{path}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    assert_none(problems, "a call on the way to the disk or to a target is a step of storage/src/failpoint.rs");
    let listed: BTreeSet<String> = storage::failpoint::STEPS.iter().map(|(step, _)| step.to_string()).collect();
    let unknown = named.difference(&listed).map(|step| format!("{step} is taken and not listed"));
    let unused = listed.difference(&named).map(|step| format!("{step} is listed and not taken"));
    assert_none(unknown.chain(unused).collect(), "the list of steps is the steps");
}

#[test]
fn names_say_something() {
    let mut problems = Vec::new();
    for path in files() {
        let name = relative(&path);
        if !name.ends_with(".rs") && !name.ends_with(".slt") {
            continue;
        }
        // Folders as well.
        let words = name.trim_end_matches(".rs").trim_end_matches(".slt").to_lowercase();
        if words.split(['_', '-', '/', '.']).any(|word| NAMES_REFUSED.contains(&word)) {
            problems.push(name);
        }
    }
    assert_none(problems, "file names that say nothing or use a word that is not ours");
}

#[test]
fn no_test_is_ignored() {
    let refused = ["#[ignore", "cfg_attr(any(), test", "with_ignored_flag(", "#[cfg(any())]"];
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
fn every_page_is_listed() {
    let list = read(&root().join("docs/README.md"));
    let mut problems = Vec::new();
    for path in files() {
        let name = relative(&path);
        let Some(below) = name.strip_prefix("docs/").filter(|below| below.ends_with(".md") && *below != "README.md")
        else {
            continue;
        };
        if !list.contains(&format!("]({below})")) {
            problems.push(name);
        }
    }
    assert_none(problems, "pages that docs/README.md does not lead to");
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
