"""Fetch images by URL, from hosts that the operator allows."""
