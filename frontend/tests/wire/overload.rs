//! Too many clients, clients that say nothing or never end, and statements that would take too much.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

use crate::{Running, one, sqlstate};

/// Far more than anything here takes: only what hangs is ended by it.
const HANGS: Duration = Duration::from_secs(120);

/// What the server says until it closes the connection.
async fn last_words(mut socket: TcpStream) -> String {
    let mut said = Vec::new();
    // A connection that is reset has said what it had to say.
    let _ = tokio::time::timeout(HANGS, socket.read_to_end(&mut said)).await.expect("the server closes it");
    String::from_utf8_lossy(&said).into_owned()
}

/// The first message of a client.
fn startup() -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 3, 0, 0];
    message.extend_from_slice(b"user\0root\0\0");
    let length = (message.len() as u32).to_be_bytes();
    message[..4].copy_from_slice(&length);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_clients_too_many_are_told_so() {
    let running = Running::start_with(|config| config.connections_max = 3).await;
    let clients = [running.connect().await, running.connect().await, running.connect().await];
    let port = running.port();
    for _ in 0..100 {
        let many = (0..100).map(|_| async move {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            socket.write_all(&startup()).await.unwrap();
            last_words(socket).await
        });
        for said in futures::future::join_all(many).await {
            assert!(said.contains("C53300"), "{said:?}");
        }
    }
    for client in &clients {
        assert_eq!(one(client, "SELECT count(*) FROM pg_stat_activity").await, "3");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_let_go() {
    let running = Running::start_with(|config| {
        (config.connecting_max, config.connect_timeout) = (4, Duration::from_secs(2));
        config.write_timeout = Duration::from_secs(1);
    })
    .await;
    let client = running.connect().await;
    let port = running.port();
    let silent = futures::future::join_all((0..4).map(|_| TcpStream::connect(("127.0.0.1", port)))).await;
    // All places at the door are taken once the server has seen them.
    let said = last_words(TcpStream::connect(("127.0.0.1", port)).await.unwrap()).await;
    assert!(said.contains("C53300"), "{said:?}");
    // Who is in does not notice.
    assert_eq!(one(&client, "SELECT 1").await, "1");
    for socket in silent {
        let said = last_words(socket.unwrap()).await;
        assert!(said.contains("authentication due to timeout"), "{said:?}");
    }
    let _another = running.connect().await;

    // A byte now and then is not a message either.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    slow.write_all(&startup()).await.unwrap();
    slow.write_all(b"Q\0\x0f\0\0SELECT ").await.unwrap();
    let said = last_words(slow).await;
    assert!(said.contains("does not end the message"), "{said:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heavy_statement_stops_when_it_is_told_to() {
    let running = Running::start().await;
    let other = running.connect().await;
    other.batch_execute("CREATE TABLE t (id int PRIMARY KEY, b int)").await.unwrap();
    other.batch_execute("INSERT INTO t SELECT x, x FROM generate_series(1, 1000) AS a(x)").await.unwrap();
    let many = "FROM t AS a, t AS b, t AS c";
    for query in [
        // A join of everything with everything, a sort, an aggregate and a window function over a billion rows.
        format!("SELECT count(*) {many} WHERE a.id % 7 = b.id % 5 + c.id"),
        format!("SELECT a.id {many} ORDER BY md5((a.id + b.id * c.id)::text), b.id"),
        format!("SELECT count(*) FROM (SELECT md5((a.id + b.id * c.id)::text), count(*) {many} GROUP BY 1) AS s"),
        format!("SELECT max(s) FROM (SELECT sum(a.id) OVER (ORDER BY b.id, c.id) AS s {many}) AS w"),
    ] {
        let client = running.connect().await;
        let token = client.cancel_token();
        let text = query.clone();
        let statement = tokio::spawn(async move { (client.simple_query(&text).await.unwrap_err(), client) });
        let is_active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()";
        while one(&other, is_active).await == "0" {}
        token.cancel_query(NoTls).await.unwrap();
        let (error, client) = tokio::time::timeout(HANGS, statement).await.expect(&query).unwrap();
        assert_eq!(sqlstate(&error), "57014", "{query}");
        assert_eq!(one(&client, "SELECT 1").await, "1");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_stops_when_its_time_is_over() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, b int)").await.unwrap();
    let joins: String = (1..16).map(|i| format!(" JOIN t AS t{i} ON t{i}.id = t{}.b", i - 1)).collect();
    let query = format!("SELECT count(*) FROM t AS t0{joins}");
    let client = running.connect_with("options='-c statement_timeout=1'").await;
    let error = tokio::time::timeout(HANGS, client.simple_query(&query)).await.expect("planning stops").unwrap_err();
    assert_eq!(sqlstate(&error), "57014", "{query}");
    let error = tokio::time::timeout(HANGS, client.prepare(&query)).await.expect("planning stops").err().unwrap();
    assert_eq!(sqlstate(&error), "57014", "{query}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_memory_spills_or_is_refused() {
    let running = Running::start_with(|config| {
        (config.read_memory_bytes, config.transaction_bytes_max) = (Some(24 << 20), 1 << 20);
    })
    .await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE n (x int)").await.unwrap();
    client.batch_execute("INSERT INTO n SELECT x FROM generate_series(1, 400) AS a(x)").await.unwrap();
    let wide = "(SELECT repeat(md5((a.x * 1000 + b.x)::text), 8) AS t FROM n AS a, n AS b)";
    let sorted = format!(
        "SELECT count(*), max(length(t)) FROM (SELECT t, row_number() OVER (ORDER BY t) AS i FROM {wide} AS w) AS s \
         WHERE i > 10000"
    );
    let rows = client.query_one(&sorted, &[]).await.unwrap();
    assert_eq!((rows.get::<_, i64>(0), rows.get::<_, i32>(1)), (150_000, 256));
    let joined = format!("SELECT count(*) FROM {wide} AS l JOIN {wide} AS r ON l.t = r.t");
    let error = client.query_one(&joined, &[]).await.unwrap_err();
    assert_eq!(sqlstate(&error), "53200");
    assert_eq!(error.as_db_error().unwrap().message(), "out of memory");

    client.batch_execute("CREATE TABLE t (a bigint)").await.unwrap();
    let error = client.batch_execute("INSERT INTO t SELECT a.x * b.x FROM n AS a, n AS b, n AS c").await.unwrap_err();
    assert_eq!(sqlstate(&error), "53200");
    client.batch_execute("INSERT INTO t SELECT x FROM generate_series(1, 10000) AS a(x)").await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "10000");
    running.stop().await;
}
