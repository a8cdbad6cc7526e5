SELECT bidder, count(*) AS bid_count, date_bin('10 seconds', date_time, '1970-01-01') AS starttime,
    date_bin('10 seconds', date_time, '1970-01-01') + INTERVAL '10' SECOND AS endtime
FROM bid GROUP BY bidder, starttime
