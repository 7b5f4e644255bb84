"""The demo world: scenes whose truth is known, and the small model that was trained on them."""
