"""Custom resource definitions, written from the structs of `api`."""
