"""DataLoads: when one may begin, what carries it out, what its status is."""
