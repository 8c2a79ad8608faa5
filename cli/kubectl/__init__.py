"""`kubectl forebay`: datasets of a cluster for people, by the objects of its API server alone."""
