"""Store contexts and blobs in Redis: one server or a cluster."""
