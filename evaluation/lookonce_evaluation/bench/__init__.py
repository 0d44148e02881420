"""Speed, size and endurance: each module that has a command is run as `python -m lookonce_evaluation.bench.NAME`."""
