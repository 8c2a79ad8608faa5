"""From YAML to resolved datasets: documents, the rules of every kind, options, tiers; all that is wrong with them, offline."""
