"""Decode images to RGB, in processes of their own.

Light on purpose: those processes import nothing else of the server.
"""

from lookonce_server.images.decode.decoder import decode_image
from lookonce_server.images.decode.formats import FORMATS
from lookonce_server.images.decode.limits import ImageLimits
from lookonce_server.images.decode.pool import DecodeProcesses

__all__ = ["FORMATS", "DecodeProcesses", "ImageLimits", "decode_image"]
