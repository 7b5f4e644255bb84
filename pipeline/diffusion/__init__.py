"""The mathematics of diffusion editing: torch and nothing else, no networks, no files."""
