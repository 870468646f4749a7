"""Side-by-side measurements, on one machine in one run. Nothing here is a test: no figure can fail."""
