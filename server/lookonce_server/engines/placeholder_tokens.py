"""Find the texts whose tokens stand for other input than text."""

from dataclasses import dataclass
from typing import Any, Self

from lookonce_server.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class PlaceholderTokens:
    """A model's placeholder texts, such as "<image>".

    Attributes:
        kinds: each text, and the kind of input that it stands for.
    """

    kinds: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, processor: Any, config: Any) -> Self:
        """Read a model's placeholders from its configuration and processor."""
        kinds = ("image", "video", "audio")
        ids = {kind: getattr(config, f"{kind}_token_id", None) for kind in kinds}
        texts = {processor.tokenizer.convert_ids_to_tokens(id_): kind for kind, id_ in ids.items() if id_ is not None}
        texts |= {getattr(processor, f"{kind}_token", None): kind for kind in kinds}
        return cls(tuple((text, kind) for text, kind in texts.items() if text))

    def refuse(self, text: str, param: str) -> None:
        """Raise InvalidRequestError, naming the field, if a text has one.

        It would be counted as an image, or have the model look for a video.
        """
        for placeholder, kind in self.kinds:
            if placeholder in text:
                raise InvalidRequestError(
                    f"The text contains {placeholder!r}, which stands for {kind} input with this model. Remove it, and"
                    " send images as image_url parts.",
                    param=param,
                )
