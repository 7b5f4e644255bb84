"""The demo world: painted scenes with known ground truth, and the small model trained on them."""
