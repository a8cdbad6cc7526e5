//! What a client says on its connection. The first byte of an input tells whether a right beginning comes before it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use frontend::{Server, ServerConfig};

const WORDS: [&str; 24] = [
    "Q\0\0\0\x0dSELECT 1\0",
    "S\0\0\0\x04",
    "H\0\0\0\x04",
    "X\0\0\0\x04",
    "P\0\0\0\x10\0SELECT $1\0\0\0",
    "B\0\0\0\x0c\0\0\0\0\0\0\0\0",
    "E\0\0\0\x09\0\0\0\0\0",
    "D\0\0\0\x06S\0",
    "C\0\0\0\x06S\0",
    "d\0\0\0\x08a\tb\n",
    "c\0\0\0\x04",
    "f\0\0\0\x05\0",
    "p\0\0\0\x05\0",
    "F\0\0\0\x04",
    "\0\0\0\x08\x04\u{2}\x16/",
    "\0\0\0\x10\x04\u{2}\x16.",
    "\u{7f}",
    "user\0",
    "options\0",
    "BEGIN;",
    "COPY t FROM STDIN",
    "SELECT ",
    "\0\x03\0\0",
    "client_encoding\0",
];
/// A statement of an input may take so long.
const STATEMENT_TIMEOUT: &str = "-c statement_timeout=1000";
/// An answer that does not come is a connection that hangs.
const HANGS: Duration = Duration::from_secs(300);
/// How long a client waits for the end that it did not ask for.
const PATIENCE: Duration = Duration::from_millis(20);

fn startup() -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 3, 0, 0];
    message.extend_from_slice(b"user\0root\0database\0dev\0options\0");
    message.extend_from_slice(STATEMENT_TIMEOUT.as_bytes());
    message.extend_from_slice(b"\0\0");
    let length = (message.len() as u32).to_be_bytes();
    message[..4].copy_from_slice(&length);
    message
}

/// Says it all, and hears what the server says until it closes the connection. Who waits for an answer ends it `after` so long:
/// a client that has gone gets none.
fn say(port: u16, bytes: &[u8], after: Duration) -> Vec<u8> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    socket.set_read_timeout(Some(HANGS)).expect("a socket");
    let mut reader = socket.try_clone().expect("a socket");
    let hearing = std::thread::spawn(move || {
        let mut heard = Vec::new();
        // One that is reset has said what it had to say; one that says nothing for so long hangs.
        if let Err(error) = reader.read_to_end(&mut heard) {
            assert!(!matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "it hangs");
        }
        heard
    });
    // The server may have heard enough.
    let _ = socket.write_all(bytes);
    let begun = Instant::now();
    while !hearing.is_finished() && begun.elapsed() < after {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = socket.shutdown(Shutdown::Write);
    hearing.join().expect("the server closes it")
}

#[test]
fn wire() {
    static PANICS: AtomicU64 = AtomicU64::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(panic);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_stack_size(planner::stack::THREAD_BYTES)
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let config = ServerConfig::new(dir.path()).on_free_ports();
    let server = runtime.block_on(Server::start(config)).expect("it starts");
    let port = server.address().port();
    let alive = || {
        let said = say(port, &[&startup()[..], b"Q\0\0\0\x0eSELECT 42\0X\0\0\0\x04"].concat(), HANGS);
        assert!(said.windows(2).any(|two| two == b"42"), "{}", said.escape_ascii());
    };
    let setup = "CREATE TABLE t (a int PRIMARY KEY, b text)";
    let mut query = vec![b'Q'];
    query.extend_from_slice(&(setup.len() as u32 + 5).to_be_bytes());
    query.extend_from_slice(setup.as_bytes());
    query.push(0);
    say(port, &[startup(), query, b"X\0\0\0\x04".to_vec()].concat(), HANGS);
    let mut n = 0;
    crate::drive("wire", 60, &WORDS, |input| {
        let Some((first, rest)) = input.split_first() else { return };
        let panics = PANICS.load(Ordering::Relaxed);
        let said = if first % 4 == 0 {
            say(port, rest, PATIENCE)
        } else {
            say(port, &[&startup()[..], rest].concat(), PATIENCE)
        };
        // Which is what a statement whose code has panicked is answered.
        assert!(!said.windows(6).any(|six| six == b"CXX000"), "{}", said.escape_ascii());
        assert_eq!(PANICS.load(Ordering::Relaxed), panics, "a thread of the server has panicked");
        n += 1;
        if n % 20 == 0 {
            alive();
        }
    });
    alive();
    runtime.block_on(server.shutdown()).expect("it stops");
}
