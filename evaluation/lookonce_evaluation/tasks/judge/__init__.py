"""Judging a description by another: its objects are listed, matched and counted."""
