"""The `forebay` command: the only room that imports every other."""
