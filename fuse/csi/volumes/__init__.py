"""What a node keeps for pods: mounts of datasets, inline volumes, their records, and where all of it is told."""
