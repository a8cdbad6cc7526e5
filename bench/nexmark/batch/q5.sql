WITH hop AS (
    SELECT auction, date_bin('2 seconds', date_time, '1970-01-01') - n * INTERVAL '2' SECOND AS window_start
    FROM bid, generate_series(0, 4) AS s(n)
), counts AS (
    SELECT auction, window_start, count(*) AS num, max(count(*)) OVER (PARTITION BY window_start) AS maxn
    FROM hop GROUP BY auction, window_start
)
SELECT auction, num FROM counts WHERE num = maxn
