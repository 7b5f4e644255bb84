"""What concerns this process: its heartbeat and its garbage collector."""
