"""Read, fetch and decode the images of requests, within limits."""
