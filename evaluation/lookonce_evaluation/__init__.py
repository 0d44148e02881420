"""What is measured: accuracy by retention and selection, and speed. Tables go to docs/."""
