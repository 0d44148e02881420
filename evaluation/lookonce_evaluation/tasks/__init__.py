"""Evaluations: the tasks, and their tables."""
