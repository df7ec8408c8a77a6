"""Measurements of the queue, and of what people would use instead."""
