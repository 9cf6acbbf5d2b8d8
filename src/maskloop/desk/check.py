"""Look at a file and say what it is."""
