"""``provcache dead-letters``."""
