-- Labels of an enumeration cannot be taken away again; they are of no harm.
ALTER TABLE symbols
    DROP COLUMN trading_before_all,
    DROP COLUMN trading_reason,
    DROP COLUMN trading_changed_at,
    DROP COLUMN trading_sequence;
