"""Where the data is, in seconds: what a place costs, who waits for it, and what is loaded ahead."""
