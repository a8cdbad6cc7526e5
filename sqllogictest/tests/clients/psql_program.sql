-- What people type into psql. What it shows is compared with what it shows over a real Postgres.
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, city varchar(20) DEFAULT 'Oslo');
INSERT INTO customers (id, name) VALUES (1, 'Ann');
INSERT INTO customers VALUES (2, 'Bob', 'Rome');
-- Where rows go that fail is told only by us.
SET client_min_messages = warning;
CREATE MATERIALIZED VIEW per_city AS SELECT city, count(*) AS n FROM customers GROUP BY city;
RESET client_min_messages;
CREATE VIEW in_rome AS SELECT * FROM customers WHERE city = 'Rome';
CREATE INDEX customers_by_city ON customers (city);
CREATE TABLE every_type (
    b boolean, s smallint, i int, l bigint, r real, d double precision, n numeric, np numeric(10, 2), t text,
    v varchar(7), c char(3), y bytea, da date, ti time, ts timestamp, tz timestamptz, iv interval, j jsonb, u uuid,
    ai int[], at text[], PRIMARY KEY (i, t)
);
INSERT INTO every_type VALUES (
    true, -1, 2, 3, 0.1, 1e100, 1.50, 1.5, 'it''s', 'v', 'c', '\x00ff', '2024-02-29', '12:34:56.789', '1999-12-31 23:59:59',
    '2024-07-01 12:00+02', '1 mon 2 days 03:04:05.6', '{"b": 1, "a": [null, 2.50]}', 'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11',
    '{1,NULL,3}', '{a,"b c",""}'
);
SELECT * FROM per_city ORDER BY city;
\d
\dt
\dv
\dm
\di
\ds
\dt cust*
\dt nothing
\d customers
\d per_city
\d in_rome
\d customers_by_city
\d every_type
\dn public
\conninfo
\encoding
\x on
SELECT * FROM customers ORDER BY id;
SELECT * FROM every_type;
\x off
SELECT * FROM every_type;
\a
SELECT * FROM customers ORDER BY id;
\t
SELECT * FROM customers ORDER BY id;
\t
\a
\pset null '(null)'
SELECT NULL AS nothing, '' AS empty;
\pset null ''
\pset format csv
SELECT id, name || ', "x"' AS name FROM customers ORDER BY id;
\pset format aligned
\timing on
SELECT 1;
\timing off
SELECT zzzzzzzzzz FROM customers;
SELECT 1 / 0;
SELEC 1;
SELECT *
FROM customers
WHERE nothing = 'like this';
INSERT INTO customers VALUES (1, 'twice');
INSERT INTO customers (id) VALUES (9);
INSERT INTO nowhere VALUES (1);
SELECT 'x'::int;
UPDATE customers SET city = 'Rome' WHERE id = 1;
:refresh;
SELECT * FROM per_city;
BEGIN;
DELETE FROM customers;
SAVEPOINT s;
SELECT 1 / 0;
SELECT 1;
ROLLBACK TO s;
SELECT count(*) FROM customers;
ROLLBACK;
COMMIT;
SELECT count(*) FROM customers;
SELECT 'text' AS t, 1.50 AS n, NULL AS nothing, true AS b, ARRAY[1,2] AS a;
\set who Bob
SELECT id FROM customers WHERE name = :'who';
SELECT 1 AS one \gset
\echo :one
SELECT 1 AS a, 2 AS b \gx
SELECT 1 AS a, now() AS b, ARRAY['x'] AS c \gdesc
SELECT 'SELECT ' || x FROM generate_series(1, 2) AS s(x) \gexec
SELECT city, name, 1 AS n FROM customers ORDER BY id \crosstabview
SELECT 1; SELECT 2;
SELECT 1 \; SELECT 2;
\copy (SELECT id, name FROM customers ORDER BY id) TO STDOUT
\copy customers FROM STDIN
3	Cid	\N
4	Dora\tx	Bern
\.
\copy customers (id, name) FROM STDIN WITH (FORMAT csv, HEADER)
id,name
5,"Eve, ""E"""
\.
\copy customers FROM STDIN
1	twice	x
\.
SELECT * FROM customers ORDER BY id;
\copy customers FROM STDIN
7	seven
\.
\copy customers FROM STDIN
7	seven	x
eight	x	y
\.
COPY (SELECT * FROM customers ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER, NULL 'none');
PREPARE by_id (int) AS SELECT name FROM customers WHERE id = $1;
EXECUTE by_id (2);
DEALLOCATE by_id;
SHOW timezone;
SET timezone = 'Europe/Berlin';
SELECT '2024-07-01 12:00+00'::timestamptz;
\i psql_include.sql
\if :one
\echo yes
\else
\echo no
\endif
DROP TABLE customers;
DROP TABLE customers CASCADE;
DROP TABLE every_type;
DROP TABLE IF EXISTS customers;
\d customers
\dt
