//! What ends a statement or a connection before its time.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::{Running, one, sqlstate};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_stops_a_statement() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let token = client.cancel_token();
    let subscription = tokio::spawn(async move { client.simple_query("SUBSCRIBE t").await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    token.cancel_query(NoTls).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(5), subscription).await.unwrap().unwrap().unwrap_err();
    assert_eq!(sqlstate(&error), "57014");

    let client = running.connect_with("options='-c statement_timeout=100'").await;
    let error = client.simple_query("SUBSCRIBE t").await.unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    running.stop().await;
}

#[tokio::test]
async fn sleeping_holds_no_thread_and_can_be_stopped() {
    // One thread runs the server and the clients: whoever held it would stop them all.
    let running = Running::start().await;
    let client = running.connect().await;
    assert_eq!(one(&client, "SELECT pg_sleep(0.01)").await, "");
    let token = client.cancel_token();
    let sleeping = tokio::spawn(async move {
        let error = client.simple_query("SELECT pg_sleep(100)").await.unwrap_err();
        (sqlstate(&error).to_owned(), client)
    });
    let other = running.connect().await;
    assert_eq!(one(&other, "SELECT count(*) FROM (SELECT pg_sleep(0.01) FROM generate_series(1, 3)) AS s").await, "3");
    let is_active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(100)'";
    while one(&other, is_active).await == "0" {}
    token.cancel_query(NoTls).await.unwrap();
    let (state, client) = tokio::time::timeout(Duration::from_secs(5), sleeping).await.unwrap().unwrap();
    assert_eq!(state, "57014");
    assert_eq!(one(&client, "SELECT 1").await, "1");

    client.batch_execute("SET statement_timeout = '50ms'").await.unwrap();
    let error = client.query("SELECT pg_sleep(100)", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    assert_eq!(error.as_db_error().unwrap().message(), "canceling statement due to statement timeout");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_and_leave_the_server_alive() {
    let running = Running::start_with(|config| (config.connections_max, config.message_bytes_max) = (2, 1 << 20)).await;
    let client = running.connect().await;
    let error = client.simple_query(&format!("SELECT '{}'", "x".repeat(2 << 20))).await.unwrap_err();
    assert_eq!(sqlstate(&error), "54000");
    assert_eq!(one(&client, "SELECT 1").await, "1");
    let _second = running.connect().await;
    let text = format!("host=127.0.0.1 port={} user=root dbname=dev", running.port());
    let error = tokio_postgres::connect(&text, NoTls).await.err().unwrap();
    assert_eq!(sqlstate(&error), "53300");
    running.stop().await;
}
