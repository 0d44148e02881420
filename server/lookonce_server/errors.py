"""The errors of the server. `http.errors` maps each class to HTTP, in one table.

ServerError
├── InvalidRequestError      the request is wrong; `param` names the field
│   ├── InvalidImageError    an image cannot be used: not decodable, too large, not allowed to be fetched
│   ├── UnsupportedMediaTypeError  the request's body is compressed, or of a kind that is not read
│   ├── ImageUuidError       the uuid of an image is another image's
│   ├── ModelNotFoundError   another model than the one served
│   └── PromptTooLongError   the prompt leaves the model no room for an answer
├── InvalidKeyError          the API key is missing or unknown
├── ForbiddenError           the Host or the Origin of the request is not one that may ask here
├── BodyTooLargeError        the request's body is larger than what is accepted
├── BodyTimeoutError         the request's body did not arrive in time
├── InvalidHttpError         what was sent is no HTTP/1.1 request
├── HeadersTooLargeError     the request has more bytes beside its body than are accepted
├── HeadersTimeoutError      the request's headers did not arrive in time
├── TooManyConnectionsError  the server has as many connections as it takes on
├── AccessConfigError        the API keys in the settings are wrong
├── ProfileError             the profile in the settings cannot be read, or is of another checkpoint
├── ContextNotFoundError     no context has that id, or not any more
│   ├── ImageNotKeptError    a conversation goes on whose image was never kept
│   └── UuidNotKnownError    no image has that uuid, or not any more
├── FileNotKnownError        no file has that id, or not any more
├── ResponseNotFoundError    no response has that id, or not any more
├── ContextNotKeptError      a context was made, but the store did not keep it
├── OverloadedError          the server has as much to do as it takes on: try again later
│   ├── RateLimitError       the tenant has asked as often as it may for now
│   └── ConcurrencyLimitError  the tenant has as many requests under way as it may have at once
├── ShuttingDownError        the server ends, and takes nothing new on
├── StartError               the server cannot be started: its address cannot be had, or a part of it failed
├── ModelRefusedError        the self-check failed: answers from a context would be wrong with this model
└── EngineError              the engine failed
    ├── EngineEndedError     the engine has ended, and the server ends with it
    └── ContextLostError     the context was gone when the engine wanted it; the whole image still answers
        └── ContextOutdatedError     what the template prints around the image has changed since it was made
"""

from typing import Self


class ServerError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidRequestError(ServerError):
    """The request is wrong.

    Attributes:
        param: the field at fault, as in "messages[0].content", or None.
        code: OpenAI's error code where there is one.
    """

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.code


class InvalidImageError(InvalidRequestError):
    """An image cannot be used."""

    code = "invalid_image"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body's encoding or media type is not supported; `param` is its header."""

    code = "unsupported_media_type"


class ImageUuidError(InvalidRequestError):
    """The uuid of an image is another image's."""

    code = "image_uuid_conflict"

    def __init__(self, uuid: str, *, param: str) -> None:
        super().__init__(
            f"{param}: {uuid[:80]!r} is the uuid of another image. Give each image a uuid of its own, such as its"
            " SHA-256.",
            param=param,
        )


class ModelNotFoundError(InvalidRequestError):
    """Another model than the one that is served was asked for."""

    code = "model_not_found"


class PromptTooLongError(InvalidRequestError):
    """The prompt is so long that the model has no room for an answer."""

    code = "context_length_exceeded"

    @classmethod
    def beyond(cls, limit: int, length: str) -> Self:
        """Make the error in OpenAI's words, by which clients shorten the prompt.

        Args:
            limit: tokens that the model takes, the answer's included.
            length: of the prompt, as in "the prompt has 3000 tokens".
        """
        return cls(
            f"This model's maximum context length is {limit} tokens. However, {length}, and the answer needs room too."
            " Please reduce the length of the messages.",
            param="messages",
        )


class InvalidKeyError(ServerError):
    """The API key is missing or unknown. No message contains a key."""


class ForbiddenError(ServerError):
    """A request that may not be made from there.

    Attributes:
        code: "host_not_allowed" or "origin_not_allowed".
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class BodyTooLargeError(ServerError):
    """The request's body is larger than what is accepted."""


class BodyTimeoutError(ServerError):
    """The request's body did not arrive in time."""


class InvalidHttpError(ServerError):
    """What was sent is no HTTP/1.1 request."""

    def __init__(self) -> None:
        super().__init__("The request is not valid HTTP/1.1.")


class HeadersTooLargeError(ServerError):
    """The request has more bytes beside its body than are accepted."""


class HeadersTimeoutError(ServerError):
    """The request's headers did not arrive in time."""


class TooManyConnectionsError(ServerError):
    """The server has as many connections as it takes on."""

    def __init__(self) -> None:
        super().__init__("The server has as many connections as it takes on. Ask again in a moment.")


class AccessConfigError(ServerError):
    """The API keys of the settings, or of their file, are wrong or unreadable."""


class ProfileError(ServerError):
    """The profile is unreadable, wrong, or calibrated for another checkpoint."""


class ContextNotFoundError(ServerError):
    """No context has the id that was asked for."""

    def __init__(self, context_id: str) -> None:
        super().__init__(
            f"There is no context {context_id!r}: it expired, was deleted, or was made by another model or with other"
            " settings. Send the image again."
        )


class ImageNotKeptError(ContextNotFoundError):
    """A conversation goes on, and no context of its image was ever made."""

    def __init__(self, response_id: str) -> None:
        ServerError.__init__(
            self,
            f"No context of the image of response {response_id!r} was made, since it was asked of the whole image."
            " Send the image again.",
        )


class UuidNotKnownError(ContextNotFoundError):
    """No image has the uuid that came without one.

    Attributes:
        param: the request's field it came in.
    """

    def __init__(self, uuid: str, *, param: str) -> None:
        ServerError.__init__(
            self,
            f"{param}: no image has the uuid {uuid[:80]!r}: none was sent with it, or it was not used for too long."
            " Send the image with it.",
        )
        self.param = param


class FileNotKnownError(ServerError):
    """No file has the id that was asked for.

    Attributes:
        param: the request's field it came in, or None where it is the request's path.
    """

    def __init__(self, file_id: str, *, param: str | None = None) -> None:
        super().__init__(f"There is no file {file_id[:80]!r}: it expired, or was deleted. Upload it again.")
        self.param = param


class ResponseNotFoundError(ServerError):
    """No response has the id that was asked for.

    Attributes:
        param: the request's field it came in, or None where it is the request's path.
        code: of OpenAI's errors.
    """

    def __init__(self, response_id: str, *, param: str | None = None) -> None:
        super().__init__(
            f"There is no response {response_id[:80]!r}: it expired, was deleted, or was not kept: it was asked with"
            " store=false, or did not end well."
        )
        self.param = param
        self.code = "response_not_found" if param is None else "previous_response_not_found"


class ContextNotKeptError(ServerError):
    """The store did not keep a context: it has no room, or lost it at once."""


class OverloadedError(ServerError):
    """The server has as much to do as it takes on.

    Attributes:
        retry_after: seconds, whole ones, after which asking again may work.
    """

    retry_after = 1


class RateLimitError(OverloadedError):
    """The tenant has asked as often as it may for now."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConcurrencyLimitError(OverloadedError):
    """The tenant has as many requests under way as it may have at once."""


class ShuttingDownError(ServerError):
    """The server finishes what it has begun, and takes nothing new on."""


class StartError(ServerError):
    """The server cannot be started; one sentence that says why."""


class ModelRefusedError(ServerError):
    """The model cannot be served by image re-prompting."""


class EngineError(ServerError):
    """The engine failed at something that is not the request's fault."""


class EngineEndedError(EngineError):
    """The engine has ended for good, and the server ends with it."""

    def __init__(self) -> None:
        super().__init__("The engine has ended, and the server ends with it. Ask another one, or again in a moment.")


class ContextLostError(EngineError):
    """The context of an answer was gone when the engine needed it; retry."""


class ContextOutdatedError(ContextLostError):
    """The template now prints another describe turn, as with another date."""
