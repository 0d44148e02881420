"""Measure speed, size and endurance: `python -m lookonce_evaluation.bench.NAME`."""
