//! `SET`, `SHOW` and the search path.

use crate::{Running, one, sqlstate};

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
async fn what_drivers_send_at_connect_is_accepted() {
    let running = Running::start().await;
    let client = running.connect().await;
    // JDBC, psycopg, Npgsql, ActiveRecord, Django, SQLAlchemy, pg_dump and dbt-risingwave.
    for statement in [
        "SET extra_float_digits = 3",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET client_encoding TO 'UTF8'",
        "SET NAMES 'utf8'",
        "SET datestyle TO 'ISO'",
        "SET DateStyle = ISO, MDY",
        "SET intervalstyle = iso_8601",
        "SET standard_conforming_strings = on",
        "SET client_min_messages TO 'warning'",
        "SET TIME ZONE 'Europe/Berlin'",
        "SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE",
        "SET LOCAL TIME ZONE DEFAULT",
        "SET statement_timeout = 0",
        "SET lock_timeout = 0",
        "SET idle_in_transaction_session_timeout = 0",
        "SET check_function_bodies = false",
        "SET xmloption = content",
        "SET row_security = off",
        "SET default_tablespace = ''",
        "SET default_table_access_method = heap",
        "SET synchronize_seqscans TO off",
        "SET quote_all_identifiers = off",
        "SET search_path = public, pg_catalog",
        "SET application_name TO \"my app\"",
        "SET jit = off",
        "SET ROLE NONE",
        "RESET ALL",
        "DISCARD ALL",
        "SET rw_implicit_flush = true",
        "SET RW_IMPLICIT_FLUSH TO on",
        "SET streaming_parallelism = 4",
        "SET query_mode TO local",
        "SET background_ddl = true",
        "SET background_ddl = false",
        "SHOW TRANSACTION ISOLATION LEVEL",
        "SHOW max_identifier_length",
        "SHOW standard_conforming_strings",
        "SHOW server_version_num",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
        "COMMIT",
        "SELECT pg_catalog.set_config('search_path', 'public', false)",
    ] {
        if let Err(error) = client.batch_execute(statement).await {
            panic!("{statement}: {error:?}");
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_config_sets() {
    let running = Running::start().await;
    let client = running.connect().await;
    assert_eq!(one(&client, "SELECT set_config('TimeZone', 'Asia/Tokyo', false)").await, "Asia/Tokyo");
    assert_eq!(one(&client, "SHOW TimeZone").await, "Asia/Tokyo");
    client.query_one("SELECT set_config('app.user', $1, false)", &[&"ada"]).await.unwrap();
    assert_eq!(one(&client, "SELECT current_setting('app.user')").await, "ada");
    client.batch_execute("BEGIN; SELECT set_config('TimeZone', 'UTC', true)").await.unwrap();
    assert_eq!(one(&client, "SHOW TimeZone").await, "UTC");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&client, "SHOW TimeZone").await, "Asia/Tokyo");
    let error = client.batch_execute("SELECT set_config('TimeZone', 'Mars/Phobos', false)").await.unwrap_err();
    assert_eq!(sqlstate(&error), "22023");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intervals_are_written_in_the_style_that_is_set() {
    let running = Running::start().await;
    let client = running.connect().await;
    let interval = "SELECT '1 year 2 mons -3 days 04:05:06.789'::interval";
    assert_eq!(one(&client, interval).await, "1 year 2 mons -3 days +04:05:06.789");
    client.batch_execute("SET IntervalStyle = iso_8601").await.unwrap();
    assert_eq!(one(&client, interval).await, "P1Y2M-3DT4H5M6.789S");
    assert_eq!(one(&client, "SELECT '-1.5 seconds'::interval").await, "PT-1.5S");
    assert_eq!(one(&client, "SELECT '0'::interval").await, "PT0S");
    let error = client.batch_execute("SET IntervalStyle = sql_standard").await.unwrap_err();
    assert_eq!(sqlstate(&error), "0A000");
    running.stop().await;
}
