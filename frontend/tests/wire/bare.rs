//! The protocol message by message, where a client library would hide what happens.

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Running, one};

/// A connection that says what the test says.
pub struct Bare {
    stream: TcpStream,
    said: BytesMut,
}

/// One message of the server: its kind and, of those that tests look at, its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Message(pub char, pub String);

impl Bare {
    pub async fn connect(running: &Running) -> Bare {
        let stream = TcpStream::connect(("127.0.0.1", running.port())).await.unwrap();
        let mut bare = Bare { stream, said: BytesMut::new() };
        let mut startup = BytesMut::new();
        startup.put_i32(0);
        startup.put_i32(196_608);
        startup.put_slice(b"user\0root\0database\0dev\0\0");
        let length = startup.len() as i32;
        startup[..4].copy_from_slice(&length.to_be_bytes());
        bare.stream.write_all(&startup).await.unwrap();
        bare.until_ready().await;
        bare
    }

    /// Adds a message to what is sent next.
    pub fn say(&mut self, kind: u8, body: &[u8]) -> &mut Bare {
        self.said.put_u8(kind);
        self.said.put_i32(body.len() as i32 + 4);
        self.said.put_slice(body);
        self
    }

    /// Parse, Bind and Execute of the unnamed statement.
    pub fn run(&mut self, sql: &str) -> &mut Bare {
        self.say(b'P', format!("\0{sql}\0\0\0").as_bytes());
        self.say(b'B', &[0, 0, 0, 0, 0, 0, 0, 0]);
        self.say(b'E', &[0, 0, 0, 0, 0])
    }

    pub fn sync(&mut self) -> &mut Bare {
        self.say(b'S', &[])
    }

    pub async fn send(&mut self) {
        let said = std::mem::take(&mut self.said);
        self.stream.write_all(&said).await.unwrap();
    }

    async fn message(&mut self) -> Option<Message> {
        let kind = self.stream.read_u8().await.ok()?;
        let mut body = vec![0; self.stream.read_i32().await.unwrap() as usize - 4];
        self.stream.read_exact(&mut body).await.unwrap();
        let text = match kind {
            b'C' => String::from_utf8_lossy(&body[..body.len() - 1]).into_owned(),
            b'Z' => (body[0] as char).to_string(),
            b'E' | b'N' => field(&body, b'C'),
            b'D' => {
                let mut row = &body[2..];
                let n = row.get_i32() as usize;
                String::from_utf8_lossy(&row[..n]).into_owned()
            }
            _ => String::new(),
        };
        Some(Message(kind as char, text))
    }

    /// Everything up to ReadyForQuery, or to the end of the connection.
    pub async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.message().await {
            let ready = message.0 == 'Z';
            messages.push(message);
            if ready {
                break;
            }
        }
        messages
    }

    /// Sends and tells what came, as one line: `1 2 D:5 C:SELECT 1 Z:I`.
    pub async fn answer(&mut self) -> String {
        self.send().await;
        let messages = self.until_ready().await;
        let shown = |m: &Message| if m.1.is_empty() { m.0.to_string() } else { format!("{}:{}", m.0, m.1) };
        messages.iter().map(shown).collect::<Vec<_>>().join(" ")
    }
}

/// A field of an error or a notice.
fn field(body: &[u8], wanted: u8) -> String {
    let mut fields = body.split(|&b| b == 0);
    let found = fields.find(|f| f.first() == Some(&wanted)).map(|f| &f[1..]);
    String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_error_everything_up_to_sync_is_skipped() {
    let running = Running::start().await;
    let mut bare = Bare::connect(&running).await;
    bare.run("SELECT 1").run("SELECT 1/0").run("SELECT 2").sync().run("SELECT 3").sync();
    assert_eq!(bare.answer().await, "1 2 D:1 C:SELECT 1 1 2 E:22012 Z:I");
    assert_eq!(bare.answer().await, "1 2 D:3 C:SELECT 1 Z:I");
    // Sync alone is answered, and so is an empty statement.
    assert_eq!(bare.sync().answer().await, "Z:I");
    assert_eq!(bare.run("").sync().answer().await, "1 2 I Z:I");
    // A simple query after an error, without Sync between them, is answered.
    bare.run("SELEC").say(b'Q', b"SELECT 4\0");
    assert_eq!(bare.answer().await, "E:42601 T D:4 C:SELECT 1 Z:I");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_up_to_sync_are_one_transaction() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut bare = Bare::connect(&running).await;
    bare.run("INSERT INTO t VALUES (1)").run("INSERT INTO t VALUES (1)").sync();
    assert_eq!(bare.answer().await, "1 2 C:INSERT 0 1 1 2 E:23505 Z:I");
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "0");
    bare.run("INSERT INTO t VALUES (1)").run("INSERT INTO t VALUES (2)").sync();
    assert_eq!(bare.answer().await, "1 2 C:INSERT 0 1 1 2 C:INSERT 0 1 Z:I");
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "2");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_string_of_statements_is_one_transaction_unless_it_says_otherwise() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut bare = Bare::connect(&running).await;
    let mut query = async |sql: &str| bare.say(b'Q', format!("{sql}\0").as_bytes()).answer().await;
    assert_eq!(query("INSERT INTO t VALUES (1); SELECT 1/0; SELECT 2").await, "C:INSERT 0 1 E:22012 Z:I");
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "0");
    // What COMMIT made durable stays, what follows it is undone.
    let said = query("BEGIN; INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); SELECT 1/0").await;
    assert_eq!(said, "C:BEGIN C:INSERT 0 1 C:COMMIT C:INSERT 0 1 E:22012 Z:I");
    assert_eq!(one(&client, "SELECT string_agg(id::text, ',') FROM t").await, "1");
    // An error in a block fails it, until its end.
    assert_eq!(query("BEGIN; SELECT nothing").await, "C:BEGIN E:42703 Z:E");
    assert_eq!(query("SELECT 1").await, "E:25P02 Z:E");
    assert_eq!(query("COMMIT").await, "C:ROLLBACK Z:I");
    assert_eq!(query("").await, "I Z:I");
    assert_eq!(query(";").await, "I Z:I");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_are_suspended_and_taken_up_again() {
    let running = Running::start().await;
    let mut bare = Bare::connect(&running).await;
    let five = "SELECT x::text FROM generate_series(1, 5) AS s(x)";
    bare.say(b'P', format!("\0{five}\0\0\0").as_bytes()).say(b'B', b"p\0\0\0\0\0\0\0\0");
    bare.say(b'D', b"Pp\0").say(b'E', b"p\0\0\0\0\x02").say(b'E', b"p\0\0\0\0\x02").say(b'E', b"p\0\0\0\0\0");
    bare.say(b'C', b"Pp\0").say(b'E', b"p\0\0\0\0\0").sync();
    assert_eq!(bare.answer().await, "1 2 T D:1 D:2 s D:3 D:4 s D:5 C:SELECT 1 3 E:34000 Z:I");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_for_too_long_is_sent_away() {
    let running = Running::start().await;
    let mut bare = Bare::connect(&running).await;
    let set = b"SET idle_in_transaction_session_timeout = 50\0";
    assert_eq!(bare.say(b'Q', set).answer().await, "C:SET Z:I");
    // Idle outside of a block is no matter.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(bare.say(b'Q', b"BEGIN\0").answer().await, "C:BEGIN Z:T");
    assert_eq!(bare.until_ready().await, [Message('E', "25P03".into())]);

    let mut bare = Bare::connect(&running).await;
    assert_eq!(bare.say(b'Q', b"SET idle_session_timeout = 50\0").answer().await, "C:SET Z:I");
    assert_eq!(bare.until_ready().await, [Message('E', "57P05".into())]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so() {
    let running = Running::start().await;
    let mut idle = Bare::connect(&running).await;
    let mut busy = Bare::connect(&running).await;
    busy.say(b'Q', b"SELECT pg_sleep(100)\0").send().await;
    running.stop().await;
    assert_eq!(idle.until_ready().await, [Message('E', "57P01".into())]);
    let last = busy.until_ready().await.pop();
    assert_eq!(last, Some(Message('E', "57P01".into())));
}
