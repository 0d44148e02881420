"""Several images of one conversation, and questions about them."""

from typing import NamedTuple

from PIL import Image

from lookonce_scenes.questions import Question


class Alone(NamedTuple):
    """A question about one image, as it is asked of that image alone."""

    image: int  # its number
    text: str


class ImageSet(NamedTuple):
    """Several images, and questions about them together.

    Attributes:
        name: unique among the sets of an evaluation.
        images: in order.
        questions: about one of them, or about several.
        alone: by question, None for one about several images.
    """

    name: str
    images: list[Image.Image]
    questions: list[Question]
    alone: list[Alone | None]
