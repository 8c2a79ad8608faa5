"""What a node publishes of its caches: `NodeCache`, from what the workers on it say of themselves."""
