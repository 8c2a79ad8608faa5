"""What a core can be asked: why somebody waits, and until when. Changes nothing."""
