"""The parts of `lookonce calibrate`."""
