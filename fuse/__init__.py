"""How a node shows a dataset: kernel protocol, session, operations, inode modes, the supervisor that keeps the mount alive."""
