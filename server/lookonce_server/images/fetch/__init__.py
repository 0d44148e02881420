"""Images by URL, from hosts that the operator allows."""
