SELECT b.auction, b.bidder, b.price, b.date_time, s.`value`
FROM bid AS b JOIN side_input FOR SYSTEM_TIME AS OF b.proctime AS s ON mod(b.auction, 10000) = s.key
