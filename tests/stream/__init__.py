"""The stream on real NATS servers."""
