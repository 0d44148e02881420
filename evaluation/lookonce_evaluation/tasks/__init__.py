"""Evaluations: what is asked of a model, and what it comes to."""
