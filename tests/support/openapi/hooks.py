"""What schemathesis cannot know: names of models that are served, and images."""

import schemathesis
from hypothesis import strategies as st

from ..pictures import picture_url
from ..server_process import MODEL

_SEEDS = range(40, 44)  # few, so that most questions are about an image that was described before

schemathesis.openapi.format("model-name", st.just(MODEL))
schemathesis.openapi.format("image-url", st.sampled_from([picture_url(seed) for seed in _SEEDS]))
