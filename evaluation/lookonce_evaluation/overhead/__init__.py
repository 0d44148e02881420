"""What the HTTP server adds to an answer: its client, its floor, and the ways to ask that are compared."""
