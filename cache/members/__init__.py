"""Several nodes: who belongs, who owns what, whom to ask, and what one node does for another."""
