"""`lookonce calibrate`: find and verify a checkpoint's profile."""
