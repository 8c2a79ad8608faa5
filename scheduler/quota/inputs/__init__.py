"""Quota objects of a cluster, read into one tree with a sentence for all that is wrong."""
