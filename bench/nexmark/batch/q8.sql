SELECT DISTINCT p.id, p.name, date_bin('10 seconds', p.date_time, '1970-01-01') AS starttime
FROM person AS p
WHERE EXISTS (
    SELECT 1 FROM auction AS a
    WHERE a.seller = p.id AND date_bin('10 seconds', a.date_time, '1970-01-01') = date_bin('10 seconds', p.date_time, '1970-01-01')
)
