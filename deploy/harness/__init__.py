"""A real Kubernetes for tests and for people who want to play: see docs/harness.md. Not part of what is installed."""
