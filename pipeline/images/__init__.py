"""Image files, geometry, and the pixel composite."""
