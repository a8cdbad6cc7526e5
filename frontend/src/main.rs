//! The program `headwater`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use frontend::commands::{backup, demo, inspect, restore, serve, sql};

/// RocksDB's threads, timely's and tokio's all allocate: the system's allocator keeps far more than is in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A streaming SQL database.
#[derive(Parser)]
#[command(name = "headwater", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Arguments),
    /// Run a temporary server with live data and show a view that changes
    Demo(demo::Arguments),
    /// Run SQL on a server
    Sql(sql::Arguments),
    /// Show what is in a data directory
    Inspect(inspect::Arguments),
    /// Copy a running server's data directory
    Backup(backup::Arguments),
    /// Make a data directory of a backup or a savepoint point
    Restore(restore::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Sql(arguments) => sql::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Backup(arguments) => backup::run(arguments),
        Command::Restore(arguments) => restore::run(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater: {error:#}");
            ExitCode::FAILURE
        }
    }
}
