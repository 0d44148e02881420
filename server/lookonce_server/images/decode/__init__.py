"""Decode images and videos to RGB, in processes of their own.

Light on purpose: those processes import nothing else of the server.
"""

from lookonce_server.images.decode.animation import join_pictures
from lookonce_server.images.decode.decoder import decode_image
from lookonce_server.images.decode.formats import FORMATS
from lookonce_server.images.decode.frames import FrameSampling
from lookonce_server.images.decode.limits import ImageLimits, VideoLimits
from lookonce_server.images.decode.pool import DecodeProcesses
from lookonce_server.images.decode.protocol import Noun
from lookonce_server.images.decode.video import VIDEO_FORMATS, decode_video

__all__ = [
    "FORMATS",
    "VIDEO_FORMATS",
    "DecodeProcesses",
    "FrameSampling",
    "ImageLimits",
    "Noun",
    "VideoLimits",
    "decode_image",
    "decode_video",
    "join_pictures",
]
