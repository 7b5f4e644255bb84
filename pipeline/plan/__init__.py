"""Planning a run: fingerprint, work to do, the `_run/` folder, status and summary."""
