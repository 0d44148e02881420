"""Texts that a model's tokenizer makes into tokens standing for other input than text."""

from dataclasses import dataclass
from typing import Any, Self

from lookonce_server.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class PlaceholderTokens:
    """A model's texts of that kind, such as "<image>".

    Attributes:
        kinds: each text, and the kind of input that it stands for.
    """

    kinds: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, processor: Any, config: Any) -> Self:
        """Those of a model, whose configuration names the tokens, and those that its processor writes others for."""
        kinds = ("image", "video", "audio")
        ids = {kind: getattr(config, f"{kind}_token_id", None) for kind in kinds}
        texts = {processor.tokenizer.convert_ids_to_tokens(id_): kind for kind, id_ in ids.items() if id_ is not None}
        texts |= {getattr(processor, f"{kind}_token", None): kind for kind in kinds}
        return cls(tuple((text, kind) for text, kind in texts.items() if text))

    def refuse(self, text: str, param: str) -> None:
        """Raise InvalidRequestError, naming the field, if the text has one.

        It would be counted as an image, or have the model look for a video.
        """
        for found, kind in self.kinds:
            if found in text:
                raise InvalidRequestError(
                    f"The text contains {found!r}, which stands for {kind} input with this model. Remove it, and send"
                    " images as image_url parts.",
                    param=param,
                )
