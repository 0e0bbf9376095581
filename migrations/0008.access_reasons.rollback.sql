-- Labels of an enumeration cannot be taken away again; they are of no harm.
SELECT 1;
