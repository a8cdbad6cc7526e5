//! The protocol as clients use it: psql 15 and tokio-postgres against a server in this process.

use std::process::Command;
use std::time::Duration;

use frontend::{Server, ServerConfig};
use futures::StreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A server on a directory that goes away with it.
struct Running {
    server: Option<Server>,
    _dir: tempfile::TempDir,
}

impl Running {
    async fn start() -> Running {
        Running::start_with(|_| ()).await
    }

    async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(dir.path()).on_free_ports();
        config.workers = 2;
        change(&mut config);
        Running { server: Some(Server::start(config).await.unwrap()), _dir: dir }
    }

    fn port(&self) -> u16 {
        self.server.as_ref().unwrap().address().port()
    }

    async fn connect(&self) -> Client {
        self.connect_with("").await
    }

    async fn connect_with(&self, more: &str) -> Client {
        let text = format!("host=127.0.0.1 port={} user=root dbname=dev {more}", self.port());
        let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs psql's own commands and SQL; what it prints on both outputs.
    async fn psql(&self, script: &str) -> String {
        let (port, script) = (self.port().to_string(), script.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut psql = Command::new("psql");
            psql.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "root", "-d", "dev", "-q"]);
            for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
                psql.args(["-c", line]);
            }
            let done = psql.output().expect("psql is installed");
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
        })
        .await
        .unwrap()
    }

    async fn stop(mut self) {
        self.server.take().unwrap().shutdown().await.unwrap();
    }
}

/// The rows of a query in text.
async fn rows(client: &Client, query: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(query).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
    let row = |m: SimpleQueryMessage| match m {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

async fn one(client: &Client, query: &str) -> String {
    rows(client, query).await[0][0].clone().unwrap_or_else(|| "NULL".into())
}

fn sqlstate(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("none", SqlState::code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_a_view_and_what_they_show() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, n int DEFAULT 7)").await.unwrap();
    client.batch_execute("INSERT INTO t (id, name) VALUES (1, 'ada'), (2, 'bob')").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW v AS SELECT sum(n) AS s, count(*) AS c FROM t").await.unwrap();
    assert_eq!(rows(&client, "SELECT s, c FROM v").await, [[Some("14".into()), Some("2".into())]]);
    client.batch_execute("UPDATE t SET n = 10 WHERE id = 2; DELETE FROM t WHERE id = 1").await.unwrap();
    assert_eq!(rows(&client, "SELECT s, c FROM v").await, [[Some("10".into()), Some("1".into())]]);

    let error = client.batch_execute("INSERT INTO t VALUES (2, 'eve')").await.unwrap_err();
    assert_eq!(sqlstate(&error), "23505");
    let db = error.as_db_error().unwrap();
    assert_eq!(db.message(), "duplicate key value violates unique constraint \"t_pkey\"");
    assert_eq!(db.detail(), Some("Key (id)=(2) already exists."));
    assert_eq!(db.constraint(), Some("t_pkey"));
    let error = client.batch_execute("INSERT INTO t VALUES (3, NULL)").await.unwrap_err();
    assert_eq!(sqlstate(&error), "23502");
    assert_eq!(error.as_db_error().unwrap().detail(), Some("Failing row contains (3, null, 7)."));

    let error = client.batch_execute("DROP TABLE t").await.unwrap_err();
    assert_eq!(sqlstate(&error), "2BP01");
    assert_eq!(error.as_db_error().unwrap().detail(), Some("materialized view v depends on table t"));
    client.batch_execute("DROP TABLE t CASCADE").await.unwrap();
    assert_eq!(sqlstate(&client.batch_execute("SELECT * FROM v").await.unwrap_err()), "42P01");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_atomic_and_see_themselves() {
    let running = Running::start().await;
    let (a, b) = (running.connect().await, running.connect().await);
    a.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    a.batch_execute("BEGIN; INSERT INTO t VALUES (1), (2)").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");
    assert_eq!(one(&b, "SELECT count(*) FROM t").await, "0");
    a.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&b, "SELECT count(*) FROM t").await, "2");

    // After an error nothing is accepted but the end.
    a.batch_execute("BEGIN; INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(sqlstate(&a.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err()), "23505");
    assert_eq!(sqlstate(&a.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
    a.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");

    // Several statements of one string are one transaction.
    let error = a.batch_execute("INSERT INTO t VALUES (4); INSERT INTO t VALUES (4)").await.unwrap_err();
    assert_eq!(sqlstate(&error), "23505");
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");

    // All reads of a block are as of one moment.
    a.batch_execute("BEGIN").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");
    b.batch_execute("INSERT INTO t VALUES (9)").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");
    a.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "3");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_infer_their_parameters() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, name text, price numeric(10,2))").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2, 1.5)").await.unwrap();
    assert_eq!(insert.params(), [Type::INT8, Type::TEXT]);
    for (id, name) in [(1i64, "ada"), (2, "bob"), (3, "eve")] {
        assert_eq!(client.execute(&insert, &[&id, &name]).await.unwrap(), 1);
    }
    let select = client.prepare("SELECT name, id + 1 AS next FROM t WHERE id = $1").await.unwrap();
    assert_eq!(select.params(), [Type::INT8]);
    assert_eq!(select.columns()[1].name(), "next");
    let row = client.query_one(&select, &[&2i64]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(1)), ("bob".into(), 3));
    assert_eq!(client.query("SELECT id FROM t ORDER BY id LIMIT $1", &[&2i64]).await.unwrap().len(), 2);
    let ids = vec![1i64, 3];
    assert_eq!(client.query("SELECT id FROM t WHERE id = ANY($1)", &[&ids]).await.unwrap().len(), 2);
    assert_eq!(client.execute("UPDATE t SET name = $1 WHERE id > $2", &[&"x", &1i64]).await.unwrap(), 2);
    assert_eq!(client.execute("DELETE FROM t WHERE name = $1", &[&"x"]).await.unwrap(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_hand_over_rows_in_pieces() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1), (2), (3)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    let first = transaction.query_portal(&portal, 2).await.unwrap();
    let rest = transaction.query_portal(&portal, 2).await.unwrap();
    assert_eq!((first.len(), rest.len()), (2, 1));
    transaction.commit().await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_and_out() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)").await.unwrap();
    let sink = client.copy_in("COPY t FROM STDIN (FORMAT csv)").await.unwrap();
    tokio::pin!(sink);
    use futures::SinkExt;
    sink.send(bytes::Bytes::from_static(b"1,\"a,\"\"b\"\n2,\n3,\"\"\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 3);
    let out = client.copy_out("COPY (SELECT * FROM t ORDER BY id) TO STDOUT").await.unwrap();
    let out: Vec<_> = out.map(|b| String::from_utf8(b.unwrap().to_vec()).unwrap()).collect().await;
    assert_eq!(out.concat(), "1\ta,\"b\n2\t\\N\n3\t\n");
    running.stop().await;
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_sends_each_change_at_once() {
    let running = Running::start().await;
    let (client, writer) = (running.connect().await, running.connect().await);
    writer.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    writer.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let none: [&str; 0] = [];
    let stream = client.query_raw("SUBSCRIBE t", none).await.unwrap();
    tokio::pin!(stream);
    let mut next = async || {
        let row = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
        (row.get::<_, i64>(1), row.get::<_, i32>(2))
    };
    assert_eq!(next().await, (1, 1));
    writer.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(next().await, (1, 2));
    writer.batch_execute("DELETE FROM t WHERE id = 1").await.unwrap();
    assert_eq!(next().await, (-1, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_known_kept_and_reported() {
    let running = Running::start().await;
    let client = running.connect_with("options='-c TimeZone=Europe/Berlin -c rw_implicit_flush=true'").await;
    assert_eq!(one(&client, "SHOW TIME ZONE").await, "Europe/Berlin");
    assert_eq!(one(&client, "SHOW rw_implicit_flush").await, "on");
    let error = client.batch_execute("SET no_such_thing = 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), "42704");
    client.batch_execute("BEGIN; SET TimeZone = 'UTC'; ROLLBACK").await.unwrap();
    assert_eq!(one(&client, "SHOW TimeZone").await, "Europe/Berlin");
    client.batch_execute("BEGIN; SET LOCAL TimeZone = 'UTC'; COMMIT").await.unwrap();
    assert_eq!(one(&client, "SHOW TimeZone").await, "Europe/Berlin");
    client.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(one(&client, "SHOW TimeZone").await, "Europe/Berlin");
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

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(dir.path()).on_free_ports();
    let server = Server::start(config.clone()).await.unwrap();
    let running = Running { server: Some(server), _dir: tempfile::tempdir().unwrap() };
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await.unwrap();
    for i in 0..20 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({i})")).await.unwrap();
    }
    let mut running = running;
    running.server.take().unwrap().crash().await.unwrap();
    running.server = Some(Server::start(config).await.unwrap());
    let client = running.connect().await;
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "20");
    assert_eq!(one(&client, "SELECT n FROM v").await, "20");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_describes_what_exists() {
    let running = Running::start().await;
    let client = running.connect().await;
    client
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, total numeric(10,2) NOT NULL DEFAULT 0, note varchar(20))",
        )
        .await
        .unwrap();
    client.batch_execute("CREATE VIEW cheap AS SELECT id FROM orders WHERE total < 10").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW sums AS SELECT sum(total) AS s FROM orders").await.unwrap();
    let out = running.psql("\\d").await;
    for (name, kind) in [("orders", "table"), ("cheap", "view"), ("sums", "materialized view")] {
        let line = out.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("no {name} in\n{out}"));
        assert!(line.contains(kind), "{line}");
    }
    assert!(running.psql("\\dt").await.contains("orders"));
    assert!(running.psql("\\dv").await.contains("cheap"));
    assert!(running.psql("\\dm").await.contains("sums"));
    assert!(running.psql("\\l").await.contains("dev"));
    assert!(running.psql("\\dn").await.contains("public"));
    assert!(running.psql("\\conninfo").await.contains("database \"dev\" as user \"root\""));
    let out = running.psql("\\d orders").await;
    for part in [
        "Table \"public.orders\"",
        "numeric(10,2)",
        "character varying(20)",
        "not null",
        "\"orders_pkey\" PRIMARY KEY, btree (id)",
    ] {
        assert!(out.contains(part), "no {part} in\n{out}");
    }
    let out = running.psql("SELECT 1/0").await;
    assert!(out.contains("ERROR:  division by zero"), "{out}");
    let out = running.psql("SELECT nothing").await;
    assert!(out.contains("LINE 1: SELECT nothing\n               ^"), "{out}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_tells_health_and_metrics() {
    let running = Running::start().await;
    let address = running.server.as_ref().unwrap().http_address().unwrap();
    let get = async |path: &str| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    assert!(metrics.contains("headwater_epoch ") && metrics.contains("headwater_memory_bytes "), "{metrics}");
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
async fn servers_of_one_process_share_nothing() {
    let (first, second) = (Running::start().await, Running::start().await);
    let sorted = "SELECT max(x) FROM (SELECT x FROM generate_series(1, 1000) AS s(x) ORDER BY x DESC) AS t";
    assert_eq!(one(&first.connect().await, sorted).await, "1000");
    first.stop().await;
    // The first one's directory is gone, and with it where its reads spilled to.
    assert_eq!(one(&second.connect().await, sorted).await, "1000");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_found_along_the_search_path() {
    let running = Running::start().await;
    let client = running.connect().await;
    assert_eq!(one(&client, "SELECT current_schema()").await, "public");
    assert_eq!(one(&client, "SELECT current_schemas(true)").await, "{pg_catalog,public}");
    client.batch_execute("SET search_path = nowhere").await.unwrap();
    assert_eq!(one(&client, "SELECT current_schema()").await, "NULL");
    assert_eq!(one(&client, "SHOW search_path").await, "nowhere");
    let error = client.batch_execute("CREATE TABLE t (a int)").await.unwrap_err();
    assert_eq!(sqlstate(&error), "3F000");
    client.batch_execute("CREATE TABLE public.t (a int)").await.unwrap();
    assert_eq!(sqlstate(&client.batch_execute("SELECT * FROM t").await.unwrap_err()), "42P01");
    client.batch_execute("SET search_path = nowhere, public").await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "0");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_names_what_depends_and_what_goes_with_it() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("CREATE VIEW v AS SELECT id FROM t").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM v").await.unwrap();
    let error = client.batch_execute("DROP TABLE t").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "2BP01");
    assert_eq!(error.message(), "cannot drop table t because other objects depend on it");
    assert_eq!(error.detail(), Some("view v depends on table t\nmaterialized view m depends on view v"));
    assert_eq!(error.hint(), Some("Use DROP ... CASCADE to drop the dependent objects too."));
    let out = running.psql("DROP TABLE t CASCADE").await;
    assert_eq!(
        out,
        "NOTICE:  drop cascades to 2 other objects\nDETAIL:  drop cascades to view v\n\
         drop cascades to materialized view m\n"
    );
    assert_eq!(running.psql("DROP TABLE IF EXISTS t").await, "NOTICE:  table \"t\" does not exist, skipping\n");
    running.stop().await;
}
