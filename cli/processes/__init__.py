"""What pods of an installation run."""
