"""Object storage: whole objects put and read in one call, on any store that fsspec reaches."""
