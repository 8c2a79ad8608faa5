"""Who goes so that a job can start."""
