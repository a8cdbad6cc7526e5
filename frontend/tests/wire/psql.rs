//! psql's own commands.

use crate::Running;

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

/// What real Postgres shows too, but for sizes, which the store does not know, and the text of definitions.
#[tokio::test(flavor = "multi_thread")]
async fn psql_describes_more_with_plus() {
    let running = Running::start().await;
    let client = running.connect().await;
    for statement in [
        "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, city varchar(20) DEFAULT 'Oslo', \
         balance numeric(10,2) DEFAULT 0, at timestamptz DEFAULT now())",
        "CREATE MATERIALIZED VIEW per_city AS SELECT city, count(*) AS n FROM customers GROUP BY city",
        "CREATE VIEW in_oslo AS SELECT id FROM customers WHERE city = 'Oslo'",
        "CREATE INDEX customers_by_city ON customers (city, id DESC)",
        "COMMENT ON TABLE customers IS 'who buys'",
        "CREATE SOURCE clicks (a int, b text) WITH (connector = 'datagen', datagen.rows = 1, fields.a.min = 3)",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let commands = r"
        \d+ customers
        \d+ per_city
        \d+ in_oslo
        \d customers_by_city
        \d customers_pkey
        \d clicks
        \dE
        \dt+
        \di+
        \dn
        \df lower
        \dv headwater_catalog.jobs
        \dT int4
        \du
        \l
        \dconfig work_mem
        \sv in_oslo
    ";
    let out = running.psql(commands).await;
    let out: Vec<&str> = out.lines().map(str::trim_end).collect();
    expect_test::expect![[r#"
                                                                  Table "public.customers"
         Column  |           Type           | Collation | Nullable |          Default          | Storage  | Compression | Stats target | Description
        ---------+--------------------------+-----------+----------+---------------------------+----------+-------------+--------------+-------------
         id      | integer                  |           | not null |                           | plain    |             |              |
         name    | text                     |           | not null |                           | extended |             |              |
         city    | character varying(20)    |           |          | 'Oslo'::character varying | extended |             |              |
         balance | numeric(10,2)            |           |          | 0                         | main     |             |              |
         at      | timestamp with time zone |           |          | now()                     | plain    |             |              |
        Indexes:
            "customers_pkey" PRIMARY KEY, btree (id)
            "customers_by_city" btree (city, id DESC)
        Access method: heap

                                                  Materialized view "public.per_city"
         Column |         Type          | Collation | Nullable | Default | Storage  | Compression | Stats target | Description
        --------+-----------------------+-----------+----------+---------+----------+-------------+--------------+-------------
         city   | character varying(20) |           |          |         | extended |             |              |
         n      | bigint                |           |          |         | plain    |             |              |
        View definition:
         SELECT city, count(*) AS n FROM customers GROUP BY city;
        Access method: heap

                                   View "public.in_oslo"
         Column |  Type   | Collation | Nullable | Default | Storage | Description
        --------+---------+-----------+----------+---------+---------+-------------
         id     | integer |           |          |         | plain   |
        View definition:
         SELECT id FROM customers WHERE city = 'Oslo';

                  Index "public.customers_by_city"
         Column |         Type          | Key? | Definition
        --------+-----------------------+------+------------
         city   | character varying(20) | yes  | city
         id     | integer               | yes  | id
        btree, for table "public.customers"

            Index "public.customers_pkey"
         Column |  Type   | Key? | Definition
        --------+---------+------+------------
         id     | integer | yes  | id
        primary key, btree, for table "public.customers"

                          Foreign table "public.clicks"
         Column |  Type   | Collation | Nullable | Default | FDW options
        --------+---------+-----------+----------+---------+-------------
         a      | integer |           |          |         |
         b      | text    |           |          |         |
        Server: datagen
        FDW options: ("datagen.rows" '1', "fields.a.min" '3')

                    List of relations
         Schema |  Name  |     Type      | Owner
        --------+--------+---------------+-------
         public | clicks | foreign table | root
        (1 row)

                                           List of relations
         Schema |   Name    | Type  | Owner | Persistence | Access method | Size | Description
        --------+-----------+-------+-------+-------------+---------------+------+-------------
         public | customers | table | root  | permanent   | heap          |      | who buys
        (1 row)

                                                     List of relations
         Schema |       Name        | Type  | Owner |   Table   | Persistence | Access method | Size | Description
        --------+-------------------+-------+-------+-----------+-------------+---------------+------+-------------
         public | customers_by_city | index | root  | customers | permanent   | btree         |      |
         public | customers_pkey    | index | root  | customers | permanent   | btree         |      |
        (2 rows)

                    List of schemas
               Name        |       Owner
        -------------------+-------------------
         headwater_catalog | root
         public            | pg_database_owner
        (2 rows)

                                 List of functions
           Schema   | Name  | Result data type | Argument data types | Type
        ------------+-------+------------------+---------------------+------
         pg_catalog | lower | text             | text                | func
        (1 row)

                    List of relations
              Schema       | Name | Type | Owner
        -------------------+------+------+-------
         headwater_catalog | jobs | view | root
        (1 row)

                 List of data types
           Schema   |  Name   | Description
        ------------+---------+-------------
         pg_catalog | integer |
        (1 row)

                                           List of roles
         Role name |                         Attributes                         | Member of
        -----------+------------------------------------------------------------+-----------
         root      | Superuser, Create role, Create DB, Replication, Bypass RLS | {}

                                               List of databases
         Name | Owner | Encoding | Collate |  Ctype  | ICU Locale | Locale Provider | Access privileges
        ------+-------+----------+---------+---------+------------+-----------------+-------------------
         dev  | root  | UTF8     | C       | C.UTF-8 |            | libc            |
        (1 row)

        List of configuration parameters
         Parameter | Value
        -----------+-------
         work_mem  | 4MB
        (1 row)

        CREATE OR REPLACE VIEW public.in_oslo AS
         SELECT id FROM customers WHERE city = 'Oslo'
    "#]].assert_eq(&(out.join("\n") + "\n"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_asks_without_running_and_remembers_errors() {
    let running = Running::start().await;
    let script = r"
        SELECT 1 AS a, 'x'::text AS b, 1.5::numeric(4,1) AS c, NULL AS d \gdesc
        SELECT x AS row, x % 2 AS col, x * 10 AS v FROM generate_series(1, 3) AS s(x) \crosstabview
        SELECT nothing;
        \errverbose
        CREATE TABLE t (id int PRIMARY KEY, name text);
        \copy t FROM PROGRAM 'printf 1,ada\\n2,bob' WITH (FORMAT csv)
        \copy t TO STDOUT
        INSERT INTO t VALUES (1, 'x');
        \errverbose
    ";
    let out = running.psql_script(script).await;
    let out: Vec<&str> = out.lines().map(str::trim_end).collect();
    expect_test::expect![[r#"
         Column |     Type
        --------+--------------
         a      | integer
         b      | text
         c      | numeric(4,1)
         d      | text
        (4 rows)

         row | 1  | 0
        -----+----+----
           1 | 10 |
           2 |    | 20
           3 | 30 |
        (3 rows)

        1	ada
        2	bob
        4: ERROR:  column "nothing" does not exist
        LINE 1: SELECT nothing;
                       ^
        5: error: ERROR:  42703: column "nothing" does not exist
        LINE 1: SELECT nothing;
                       ^
        9: ERROR:  duplicate key value violates unique constraint "t_pkey"
        DETAIL:  Key (id)=(1) already exists.
        10: error: ERROR:  23505: duplicate key value violates unique constraint "t_pkey"
        DETAIL:  Key (id)=(1) already exists.
        SCHEMA NAME:  public
        TABLE NAME:  t
        CONSTRAINT NAME:  t_pkey
    "#]]
    .assert_eq(&(out.join("\n") + "\n"));
    running.stop().await;
}
