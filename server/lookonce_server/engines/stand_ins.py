"""Texts that a model's tokenizer makes into tokens standing for other input than text."""

from typing import Any

from lookonce_server.errors import InvalidRequestError


class StandIns:
    """A model's texts of that kind, such as "<image>".

    Args:
        tokenizer: of the model.
        config: the model's configuration, which names the tokens.
    """

    def __init__(self, tokenizer: Any, config: Any) -> None:
        ids = {kind: getattr(config, f"{kind}_token_id", None) for kind in ("image", "video", "audio")}
        texts = {kind: tokenizer.convert_ids_to_tokens(id_) for kind, id_ in ids.items() if id_ is not None}
        self._kinds: dict[str, str] = {text: kind for kind, text in texts.items() if text}

    def refuse(self, text: str, param: str) -> None:
        """Raise InvalidRequestError, naming the field, if the text has one.

        It would be counted as an image, or have the model look for a video.
        """
        for found, kind in self._kinds.items():
            if found in text:
                raise InvalidRequestError(
                    f"The text contains {found!r}, which stands for {kind} input with this model. Remove it, and send"
                    " images as image_url parts.",
                    param=param,
                )
