"""Everything that made the bundled model; not in the wheel."""
