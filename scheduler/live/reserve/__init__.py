"""What is kept for jobs that cannot start yet: nodes, room in queues, data that is loaded ahead; and how long they may wait."""
