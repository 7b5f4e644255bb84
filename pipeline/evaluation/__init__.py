"""Public benchmarks: reads their formats, and measures edits by their protocols."""
