"""What nodes and datasets publish for those who place pods."""
