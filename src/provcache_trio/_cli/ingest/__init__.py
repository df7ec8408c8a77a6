"""``provcache ingest``."""
