"""Which bytes are fetched, for whom, in what order and to which place: a pure machine and the shell around it."""
