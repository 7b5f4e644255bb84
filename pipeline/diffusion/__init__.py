"""The mathematics of diffusion editing. Needs torch only: no networks, no files."""
