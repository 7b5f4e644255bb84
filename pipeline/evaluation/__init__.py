"""Public benchmarks: read in their own formats, edited by any method, measured as they say."""
