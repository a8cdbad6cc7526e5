WITH best AS (
    SELECT date_bin('10 seconds', date_time, '1970-01-01') AS window_start, max(price) AS maxprice FROM bid GROUP BY 1
)
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid AS b JOIN best ON b.price = best.maxprice
WHERE b.date_time >= best.window_start AND b.date_time <= best.window_start + INTERVAL '10' SECOND
