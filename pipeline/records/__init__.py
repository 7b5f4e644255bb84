"""What travels through a run: samples and edits in parts, rows, seeds."""
