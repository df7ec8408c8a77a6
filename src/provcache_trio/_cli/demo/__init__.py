"""``provcache demo``."""
