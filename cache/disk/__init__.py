"""What this node holds: the index, cache files and extents, tiers, what is durable and what is checked."""
