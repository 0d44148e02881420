"""What schemathesis cannot know: names of models that are served, images and videos."""

import base64

import schemathesis
from hypothesis import strategies as st

from ..pictures import picture_url
from ..server_process import MODEL
from ..video_files import moving_pictures, video_file

_SEEDS = range(40, 44)  # few, so that most questions are about an image that was described before

schemathesis.openapi.format("model-name", st.just(MODEL))
schemathesis.openapi.format("image-url", st.sampled_from([picture_url(seed) for seed in _SEEDS]))
schemathesis.openapi.format("file-id", st.just(f"file-{'0' * 64}"))
_VIDEOS = [video_file(moving_pictures(count), kind=kind) for count, kind in ((3, "mp4"), (5, "webm"))]
_VIDEO_URLS = [f"data:video/mp4;base64,{base64.b64encode(video).decode()}" for video in _VIDEOS]
schemathesis.openapi.format("video-url", st.sampled_from(_VIDEO_URLS))
