"""What the scheduler reads of Kubernetes' own types."""
