"""`lookonce calibrate`: how images are best described for one checkpoint, found and verified."""
