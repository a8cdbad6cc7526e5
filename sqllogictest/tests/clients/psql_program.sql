-- What people type into psql, and what it shows. Compared with psql_program.out.
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, city varchar(20) DEFAULT 'Oslo');
INSERT INTO customers (id, name) VALUES (1, 'Ann');
INSERT INTO customers VALUES (2, 'Bob', 'Rome');
CREATE MATERIALIZED VIEW per_city AS SELECT city, count(*) AS n FROM customers GROUP BY city;
CREATE VIEW in_rome AS SELECT * FROM customers WHERE city = 'Rome';
CREATE INDEX customers_by_city ON customers (city);
SELECT * FROM per_city ORDER BY city;
\d
\dt
\dv
\dm
\di
\d customers
\d per_city
\d in_rome
\dn
\conninfo
\x on
SELECT * FROM customers ORDER BY id;
\x off
\timing on
SELECT 1;
\timing off
SELECT zzzzzzzzzz FROM customers;
SELECT 1 / 0;
SELEC 1;
UPDATE customers SET city = 'Rome' WHERE id = 1;
SELECT * FROM per_city;
BEGIN;
DELETE FROM customers;
ROLLBACK;
SELECT count(*) FROM customers;
SELECT 'text' AS t, 1.50 AS n, NULL AS nothing, true AS b, ARRAY[1,2] AS a;
\set who Bob
SELECT id FROM customers WHERE name = :'who';
SELECT 1 AS one \gset
\echo :one
SELECT 1 AS a, 2 AS b \gx
\copy (SELECT id, name FROM customers ORDER BY id) TO STDOUT
DROP TABLE customers;
DROP TABLE customers CASCADE;
\d customers
\dt
