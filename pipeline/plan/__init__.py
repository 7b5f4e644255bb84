"""A run around its parts: fingerprint, what is to do, the `_run/` folder, the summary."""
