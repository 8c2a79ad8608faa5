"""Trees of files behind HTTP."""
