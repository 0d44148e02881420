"""From what a request calls an image to its bytes, and from its bytes to pixels, within limits."""

from lookonce_server.decoding import FORMATS, DecodeProcesses, ImageLimits, decode_image
from lookonce_server.images.fetching import Fetcher
from lookonce_server.images.reading import Images
from lookonce_server.images.remote import FetchPolicy
from lookonce_server.images.sources import ContextReference, ImageBytes, ImageSource, read_data_url

__all__ = [
    "FORMATS",
    "ContextReference",
    "DecodeProcesses",
    "FetchPolicy",
    "Fetcher",
    "ImageBytes",
    "ImageLimits",
    "ImageSource",
    "Images",
    "decode_image",
    "read_data_url",
]
