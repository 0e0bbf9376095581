"""What outlives a process: the journal and its snapshots, and PostgreSQL. The only package that knows SQL."""
