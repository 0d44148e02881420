"""Serve the paths, one module for each group."""
