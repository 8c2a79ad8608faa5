"""Carries out what was decided, in threads of its own, and tells what came of it. Decides nothing."""
