"""What each engine wants to exist for a dataset, and what the dataset's status is by what exists. Pure.

`engine` says what an engine provides, `registry` which one serves which object; every other module or package here with
an `ENGINE` in it is an engine. docs/engines.md tells how to add one.
"""
