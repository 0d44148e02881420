"""Analyses of a checkpoint's attention."""
