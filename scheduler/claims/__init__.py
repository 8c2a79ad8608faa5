"""Claims on devices (DRA): which devices there are, which a claim wants, who holds them, and which it gets."""
