"""Encode contexts as bytes: quantization, header, wire format."""
