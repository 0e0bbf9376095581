DROP TABLE engine_identity;
