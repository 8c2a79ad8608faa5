"""What the pods that usually come can use of the free cards, and what they cannot."""
