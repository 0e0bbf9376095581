-- Streams of a user's orders resume: orders that were cancelled since a moment are found by nothing else. Filled ones are
-- found by their postings, younger ones by their ids.
-- depends: 0004.ledger

CREATE INDEX orders_cancelled ON orders (account_id, closed_at) WHERE status = 'cancelled';
