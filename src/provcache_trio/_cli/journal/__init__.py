"""``provcache journal``."""
