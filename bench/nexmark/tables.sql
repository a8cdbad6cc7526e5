-- The benchmark's input. 50 events are 1 person, 3 auctions and 46 bids.
CREATE SOURCE bid (auction bigint, bidder bigint, price bigint, channel varchar, url varchar, date_time timestamp, extra varchar)
WITH (connector = 'nexmark', nexmark.table.type = 'Bid', nexmark.events.per.second = '0');
CREATE SOURCE auction (id bigint, item_name varchar, description varchar, initial_bid bigint, reserve bigint, date_time timestamp,
    expires timestamp, seller bigint, category bigint, extra varchar)
WITH (connector = 'nexmark', nexmark.table.type = 'Auction', nexmark.events.per.second = '0');
CREATE SOURCE person (id bigint, name varchar, email_address varchar, credit_card varchar, city varchar, state varchar, date_time timestamp,
    extra varchar)
WITH (connector = 'nexmark', nexmark.table.type = 'Person', nexmark.events.per.second = '0');
-- What q13 looks up.
CREATE TABLE side_input (key bigint PRIMARY KEY, value varchar);
INSERT INTO side_input SELECT n, 'value ' || n FROM generate_series(0, 9999) AS s(n);
