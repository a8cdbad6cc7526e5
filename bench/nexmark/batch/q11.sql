WITH marked AS (
    SELECT bidder, date_time,
        CASE WHEN date_time <= lag(date_time) OVER each + INTERVAL '10' SECOND THEN 0 ELSE 1 END AS first
    FROM bid WINDOW each AS (PARTITION BY bidder ORDER BY date_time)
), numbered AS (
    SELECT bidder, date_time, sum(first) OVER (PARTITION BY bidder ORDER BY date_time) AS session FROM marked
)
SELECT bidder, count(*) AS bid_count, min(date_time) AS starttime, max(date_time) + INTERVAL '10' SECOND AS endtime
FROM numbered GROUP BY bidder, session
