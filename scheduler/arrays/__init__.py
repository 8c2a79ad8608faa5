"""The cluster as arrays: what nodes have, what of it is free, what runs where; changed row by row, together or not at all."""
