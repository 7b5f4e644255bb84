"""This process's heartbeat and its garbage collector."""
