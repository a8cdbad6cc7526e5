import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;

/** JDBC against the server on port args[0]: DDL, DML, parameters, all types in text and binary, metadata, cancel. */
public class JdbcProgram {
    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    interface Program { void run(Connection connection) throws Exception; }

    static void with(String url, Program program) throws Exception {
        try (Connection connection = DriverManager.getConnection(url)) { program.run(connection); }
    }

    static void fails(Connection connection, String sql, String state) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        } catch (SQLException error) {
            check(error.getSQLState().equals(state), sql + ": " + error.getSQLState() + " " + error.getMessage());
            return;
        }
        throw new AssertionError(sql + " should fail");
    }

    public static void main(String[] args) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + args[0] + "/dev?user=root&password=";
        with(url, JdbcProgram::statements);
        // Text first; with threshold -1 the driver asks for binary from the first execution on.
        with(url + "&prepareThreshold=0&binaryTransfer=false", JdbcProgram::types);
        with(url + "&prepareThreshold=-1&binaryTransfer=true", JdbcProgram::types);
        with(url + "&preferQueryMode=simple", JdbcProgram::types);
        with(url, JdbcProgram::transactions);
        with(url, JdbcProgram::metadata);
        with(url, JdbcProgram::cancel);
        System.out.println("JDBC: all well");
    }

    static void statements(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE j (id int PRIMARY KEY, name varchar(20), amount numeric(10,2))");
            check(statement.executeUpdate("INSERT INTO j VALUES (1, 'one', 1.5), (2, 'two', NULL)") == 2, "rows of INSERT");
            check(statement.executeUpdate("UPDATE j SET name = 'x' WHERE id = 1") == 1, "rows of UPDATE");
            check(statement.executeUpdate("DELETE FROM j WHERE id = 9") == 0, "rows of DELETE");
            check(statement.execute("SELECT 1; SELECT 2"), "two results");
            check(statement.getMoreResults(), "the second result");
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO j VALUES (?, ?, ?)")) {
            for (int id = 10; id < 60; id++) {
                insert.setInt(1, id);
                insert.setString(2, "n" + id);
                insert.setBigDecimal(3, new BigDecimal("0.25"));
                insert.addBatch();
            }
            check(Arrays.stream(insert.executeBatch()).sum() == 50, "rows of a batch");
        }
        try (PreparedStatement select = connection.prepareStatement("SELECT name, amount FROM j WHERE id = ?")) {
            for (int round = 0; round < 12; round++) {
                select.setInt(1, 10 + round);
                try (ResultSet rows = select.executeQuery()) {
                    check(rows.next() && rows.getString("name").equals("n" + (10 + round)), "row " + round);
                    check(rows.getBigDecimal(2).toString().equals("0.25"), rows.getBigDecimal(2));
                    check(!rows.next(), "one row only");
                }
            }
            select.setInt(1, 2);
            try (ResultSet rows = select.executeQuery()) {
                check(rows.next() && rows.getBigDecimal(2) == null && rows.wasNull(), "NULL");
            }
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO j VALUES (?, ?, ?) RETURNING id")) {
            insert.setInt(1, 99);
            insert.setNull(2, Types.VARCHAR);
            insert.setNull(3, Types.NUMERIC);
            try (ResultSet rows = insert.executeQuery()) { check(rows.next() && rows.getInt(1) == 99, "RETURNING"); }
        }
        fails(connection, "SELECT 1/0", "22012");
        fails(connection, "SELECT nope FROM j", "42703");
        fails(connection, "INSERT INTO j VALUES (1, 'x', 1)", "23505");
        fails(connection, "SELEC", "42601");
    }

    static void types(Connection connection) throws Exception {
        String sql = "SELECT ?::boolean, ?::smallint, ?::int, ?::bigint, ?::real, ?::double precision, ?::numeric, ?::text, ?::bytea,"
            + " ?::date, ?::timestamp, ?::timestamptz, ?::uuid, ?::jsonb, ?::time";
        UUID uuid = UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        OffsetDateTime instant = OffsetDateTime.of(2024, 2, 29, 12, 34, 56, 789000, ZoneOffset.UTC);
        LocalDateTime local = LocalDateTime.of(1999, 12, 31, 23, 59, 59, 123456000);
        try (PreparedStatement select = connection.prepareStatement(sql)) {
            for (int round = 0; round < 7; round++) {
                select.setBoolean(1, true);
                select.setShort(2, (short) -7);
                select.setInt(3, Integer.MIN_VALUE);
                select.setLong(4, Long.MAX_VALUE);
                select.setFloat(5, 1.5f);
                select.setDouble(6, 0.1);
                select.setBigDecimal(7, new BigDecimal("12345678901234567890.0123456789"));
                select.setString(8, "it's grüße");
                select.setBytes(9, new byte[] {0, -1, 92});
                select.setObject(10, LocalDate.of(2024, 2, 29));
                select.setObject(11, local);
                select.setObject(12, instant);
                select.setObject(13, uuid);
                select.setObject(14, "{\"a\": 1}", Types.OTHER);
                select.setObject(15, LocalTime.of(1, 2, 3));
                try (ResultSet row = select.executeQuery()) {
                    check(row.next(), "a row");
                    check(row.getBoolean(1), "boolean");
                    check(row.getShort(2) == -7 && row.getInt(3) == Integer.MIN_VALUE && row.getLong(4) == Long.MAX_VALUE, "integers");
                    check(row.getFloat(5) == 1.5f && row.getDouble(6) == 0.1, "floats");
                    check(row.getBigDecimal(7).toString().equals("12345678901234567890.0123456789"), row.getBigDecimal(7));
                    check(row.getString(8).equals("it's grüße"), row.getString(8));
                    check(Arrays.equals(row.getBytes(9), new byte[] {0, -1, 92}), "bytea");
                    check(row.getObject(10, LocalDate.class).equals(LocalDate.of(2024, 2, 29)), row.getString(10));
                    check(row.getObject(11, LocalDateTime.class).equals(local), row.getString(11));
                    check(row.getObject(12, OffsetDateTime.class).isEqual(instant), row.getString(12));
                    check(row.getObject(13).equals(uuid), row.getObject(13));
                    check(row.getString(14).equals("{\"a\": 1}"), row.getString(14));
                    check(row.getObject(15, LocalTime.class).equals(LocalTime.of(1, 2, 3)), row.getString(15));
                }
            }
        }
        try (Statement statement = connection.createStatement();
             ResultSet row = statement.executeQuery("SELECT ARRAY[1, 2, NULL]::int[], ARRAY['a', 'b c'], interval '1 day 2 hours', varchar 'v', NULL::int")) {
            check(row.next(), "a row");
            check(Arrays.equals((Object[]) row.getArray(1).getArray(), new Integer[] {1, 2, null}), row.getString(1));
            check(Arrays.equals((Object[]) row.getArray(2).getArray(), new String[] {"a", "b c"}), row.getString(2));
            check(row.getString(3).contains("1 day") || row.getString(3).contains("1 days"), row.getString(3));
            check(row.getString(4).equals("v") && row.getInt(5) == 0 && row.wasNull(), "varchar and NULL");
            ResultSetMetaData columns = row.getMetaData();
            check(columns.getColumnCount() == 5 && columns.getColumnTypeName(1).equals("_int4"), columns.getColumnTypeName(1));
        }
    }

    static void transactions(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE tx (a int)");
            connection.setAutoCommit(false);
            statement.executeUpdate("INSERT INTO tx VALUES (1)");
            connection.rollback();
            statement.executeUpdate("INSERT INTO tx VALUES (2)");
            connection.commit();
            // A cursor of the driver: rows come in portions, which takes a portal with a row limit.
            statement.setFetchSize(3);
            int n = 0;
            try (ResultSet rows = statement.executeQuery("SELECT x FROM generate_series(1, 10) AS s(x)")) {
                while (rows.next()) n += rows.getInt(1);
            }
            check(n == 55, n);
            connection.commit();
            connection.setAutoCommit(true);
            try (ResultSet rows = statement.executeQuery("SELECT a FROM tx")) { check(rows.next() && rows.getInt(1) == 2 && !rows.next(), "tx"); }
        }
    }

    static void metadata(Connection connection) throws Exception {
        DatabaseMetaData metadata = connection.getMetaData();
        Set<String> tables = new TreeSet<>();
        try (ResultSet rows = metadata.getTables(null, "public", "%", new String[] {"TABLE"})) {
            while (rows.next()) tables.add(rows.getString("TABLE_NAME"));
        }
        check(tables.contains("j") && tables.contains("tx"), tables);
        List<String> columns = new ArrayList<>();
        try (ResultSet rows = metadata.getColumns(null, "public", "j", "%")) {
            while (rows.next()) columns.add(rows.getString("COLUMN_NAME") + " " + rows.getString("TYPE_NAME"));
        }
        check(columns.equals(List.of("id int4", "name varchar", "amount numeric")), columns);
        try (ResultSet rows = metadata.getPrimaryKeys(null, "public", "j")) {
            check(rows.next() && rows.getString("COLUMN_NAME").equals("id"), "primary key");
        }
    }

    static void cancel(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try { Thread.sleep(300); statement.cancel(); } catch (Exception error) { throw new RuntimeException(error); }
            });
            canceller.start();
            try {
                statement.execute("SELECT pg_sleep(60)");
                throw new AssertionError("should be cancelled");
            } catch (SQLException error) {
                check("57014".equals(error.getSQLState()), error.getSQLState() + " " + error.getMessage());
            }
            canceller.join();
            try (ResultSet rows = statement.executeQuery("SELECT 1")) { check(rows.next(), "after a cancel"); }
        }
    }
}
