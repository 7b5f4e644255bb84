"""Networks: finding, checking and loading them, and adapting them to ``pipeline.diffusion``."""
