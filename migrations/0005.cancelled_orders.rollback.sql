DROP INDEX orders_cancelled;
