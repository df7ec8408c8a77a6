"""``provcache top``."""
