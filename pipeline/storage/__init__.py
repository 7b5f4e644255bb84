"""Object storage: reads and writes whole objects in one call, on any store that fsspec reaches."""
