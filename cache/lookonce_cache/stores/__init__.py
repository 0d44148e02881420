"""Stores of contexts, behind one interface."""
