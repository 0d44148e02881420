"""What answers and descriptions are worth, and how sure that is."""
