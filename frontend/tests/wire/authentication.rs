//! Passwords and encryption, as psql and tokio-postgres use them.

use std::path::{Path, PathBuf};
use std::process::Command;

use frontend::Authenticate;
use tokio_postgres::NoTls;

use crate::{Running, sqlstate};

/// A certificate for localhost, made for these tests, and its key.
fn certificate() -> (PathBuf, PathBuf) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/tls");
    (dir.join("server.crt"), dir.join("server.key"))
}

fn password_file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

async fn login(port: u16, user: &str, password: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let text = format!("host=127.0.0.1 port={port} user={user} password='{password}' dbname=dev");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn psql(connection: String, password: &'static str, command: &'static str) -> String {
    let done = tokio::task::spawn_blocking(move || {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-w", &connection, "-c", command]).env("PGPASSWORD", password);
        psql.output().expect("psql is installed")
    });
    let done = done.await.unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_knows_the_password_is_let_in() {
    let file = password_file("open sesame\n");
    let running = Running::start_with(|config| {
        config.authenticate = Authenticate::ScramSha256;
        config.password_file = Some(file.path().to_owned());
    })
    .await;
    let port = running.port();
    let root = login(port, "root", "open sesame").await.unwrap();
    for statement in [
        "CREATE USER ann WITH PASSWORD 'her secret'",
        "CREATE ROLE nobody PASSWORD 'x'",
        "CREATE USER late PASSWORD 'x' VALID UNTIL '2001-01-01'",
        "CREATE USER without",
    ] {
        root.batch_execute(statement).await.unwrap();
    }
    let ann = login(port, "ann", "her secret").await.unwrap();
    let row = ann.query_one("SELECT current_user::text, session_user::text", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("ann", "ann"));
    for (user, password) in
        [("root", "Open sesame"), ("ann", ""), ("ann", "x"), ("late", "x"), ("without", "x"), ("stranger", "x")]
    {
        let Err(error) = login(port, user, password).await else { panic!("{user} got in with {password}") };
        // Without a password tokio-postgres itself gives up.
        if !password.is_empty() {
            assert_eq!(sqlstate(&error), "28P01", "{user}: {error}");
        }
    }
    let error = login(port, "nobody", "x").await.err().unwrap();
    assert_eq!(sqlstate(&error), "28000");

    root.batch_execute("ALTER USER ann PASSWORD 'another'; ALTER ROLE nobody LOGIN").await.unwrap();
    assert!(login(port, "ann", "her secret").await.is_err());
    login(port, "ann", "another").await.unwrap();
    login(port, "nobody", "x").await.unwrap();
    ann.batch_execute("ALTER USER CURRENT_USER PASSWORD 'own'").await.unwrap();
    login(port, "ann", "own").await.unwrap();
    root.batch_execute("DROP USER IF EXISTS ann, nobody, never").await.unwrap();
    assert!(login(port, "ann", "own").await.is_err());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start_on(dir.path()).await;
    let client = running.connect().await;
    client.batch_execute("CREATE USER ann PASSWORD 'x' CREATEDB; ALTER ROLE root PASSWORD 'y'").await.unwrap();
    running.stop().await;
    let mut config = frontend::ServerConfig::new(dir.path()).on_free_ports();
    config.authenticate = Authenticate::ScramSha256;
    let server = frontend::Server::start(config).await.unwrap();
    let client = login(server.address().port(), "ann", "x").await.unwrap();
    let row = client.query_one("SELECT rolcreatedb, rolsuper FROM pg_roles WHERE rolname = 'ann'", &[]).await.unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (true, false));
    drop(client);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_could_log_in_to_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = frontend::ServerConfig::new(dir.path()).on_free_ports();
    config.authenticate = Authenticate::ScramSha256;
    let error = frontend::Server::start(config).await.err().unwrap().to_string();
    assert!(error.contains("--password-file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_connects_encrypted_and_bound_to_the_certificate() {
    let (file, (crt, key)) = (password_file("secret"), certificate());
    let ca = crt.display().to_string();
    let running = Running::start_with(|config| {
        config.authenticate = Authenticate::ScramSha256;
        config.password_file = Some(file.path().to_owned());
        config.tls = Some((crt, key));
    })
    .await;
    let to = format!("host=localhost hostaddr=127.0.0.1 port={} user=root dbname=dev", running.port());
    let full = format!("{to} sslmode=verify-full sslrootcert={ca}");
    assert_eq!(psql(full.clone(), "secret", "SELECT 42").await, "42\n");
    // The login belongs to this certificate: nobody in between can pass it on.
    assert_eq!(psql(format!("{full} channel_binding=require"), "secret", "SELECT 42").await, "42\n");
    assert_eq!(psql(format!("{full} channel_binding=disable"), "secret", "SELECT 42").await, "42\n");
    let many = psql(full.clone(), "secret", "SELECT count(*), max(g) FROM generate_series(1, 300000) g").await;
    assert_eq!(many, "300000|300000\n");
    let wide = psql(full.clone(), "secret", "SELECT repeat('x', 3000000)").await;
    assert_eq!(wide.trim_end().len(), 3_000_000);
    let wrong = psql(full, "wrong", "SELECT 42").await;
    assert!(wrong.contains("password authentication failed for user \"root\""), "{wrong}");
    assert_eq!(psql(format!("{to} sslmode=disable"), "secret", "SELECT 42").await, "42\n");
    let refused = psql(format!("{to} sslmode=disable channel_binding=require"), "secret", "SELECT 42").await;
    assert!(refused.contains("channel binding"), "{refused}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_lists_roles() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE USER ann CREATEDB; CREATE ROLE staff").await.unwrap();
    let out = running.psql("\\du").await;
    for part in ["ann       | Create DB", "staff     | Cannot login", "root      | Superuser, Create role, Create DB"] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    for (statement, state) in [
        ("CREATE USER ann", "42710"),
        ("CREATE USER pg_x", "42939"),
        ("DROP USER nobody", "42704"),
        ("DROP USER root", "55006"),
        ("ALTER USER nobody PASSWORD 'x'", "42704"),
        ("CREATE USER b REPLICATION", "0A000"),
        ("CREATE USER b NONSENSE", "42601"),
        ("GRANT SELECT ON t TO ann", "0A000"),
    ] {
        let error = client.batch_execute(statement).await.unwrap_err();
        assert_eq!(sqlstate(&error), state, "{statement}: {error}");
    }
    running.stop().await;
}
