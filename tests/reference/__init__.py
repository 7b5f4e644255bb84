"""The papers' formulas in float64 numpy, written to be compared with and not to be fast."""
