"""Commands of one machine without Kubernetes."""
