"""Read request bodies, JSON and forms, within bounds."""
