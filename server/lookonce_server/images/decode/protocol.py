"""The messages between the server and the processes that decode."""

import struct

# The limits: max_bytes, max_pixels, max_side, max_aspect; then how many bytes of the image follow.
REQUEST = struct.Struct(">QQQQQ")
# Width and height, both 0 for a refusal; then how many bytes of RGB pixels, or of a text in UTF-8, follow.
REPLY = struct.Struct(">IIQ")
