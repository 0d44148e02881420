"""Accuracy and F1, with their intervals."""
