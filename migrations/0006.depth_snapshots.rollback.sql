DROP TABLE depth_snapshots;
