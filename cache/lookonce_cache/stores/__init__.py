"""Store contexts and blobs in memory, in Redis, or in both, behind one interface."""
