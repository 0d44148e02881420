"""What is kept of an image: the keys and values of the few positions that carry it."""

import math
import re
from dataclasses import dataclass, field

import torch

from lookonce_cache.errors import InvalidContextError

CONTEXT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# In UTF-8; together they keep every header below its own limit.
TEXT_LIMITS = {"description": 24 * 1024, "describe_prompt": 24 * 1024, "model_fingerprint": 512, "selection": 512}
MAX_DIMENSION = 2**31 - 1

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompressedContext:
    """A compressed context, stored packed: its next free RoPE position equals its token count.

    Tensors are on the CPU and are shared, never copied: whoever gets a context must not write to them.

    Attributes:
        id: the content key, 64 lowercase hex digits (`ContextIdentity.key`).
        keys, values: [layers, kv_heads, tokens, head_dim], float32, bfloat16 or float16.
        next_position: RoPE position of the first token after the context; equals `tokens`.
        full_tokens: tokens the describe turn's whole prompt had before compression.
        image_tokens: image tokens in that prompt.
        kept_indices: [rows, kept], int32; indices into the image tokens, strictly ascending in each row. One row
            when all layers keep the same tokens, else one row a layer.
        scores: [image_tokens], float32; attention paid to each image token, mean over the scoring window.
        grid: height and width of the image tokens' grid; (1, image_tokens) for a model without one.
        description: what the describe pass generated.
        describe_prompt: what it was asked.
        model_fingerprint: identity of configuration, weights and processor.
        image_digest: `digest` of the image's bytes, 64 lowercase hex digits.
        retention: share of the image tokens kept, a fraction between 0 and 1.
        selection: name of the selection method.
        created_at: unix time in seconds.

    Raises:
        InvalidContextError: a field has the wrong type, shape or range, or two contradict each other.
    """

    id: str
    keys: torch.Tensor = field(repr=False)
    values: torch.Tensor = field(repr=False)
    next_position: int
    full_tokens: int
    image_tokens: int
    kept_indices: torch.Tensor = field(repr=False)
    scores: torch.Tensor = field(repr=False)
    grid: tuple[int, int]
    description: str
    describe_prompt: str
    model_fingerprint: str
    image_digest: str
    retention: float
    selection: str
    created_at: float

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_numbers()
        self._check_tensors()
        self._check_kept()

    @property
    def tokens(self) -> int:
        """Positions in the context."""
        return self.keys.shape[2]

    @property
    def kept_tokens(self) -> int:
        """Image tokens kept, in each layer."""
        return self.kept_indices.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in (self.keys, self.values, self.kept_indices, self.scores))

    def _check_texts(self) -> None:
        for name in ("id", "image_digest"):
            text = getattr(self, name)
            _require(isinstance(text, str) and _DIGEST.fullmatch(text), f"{name} must be 64 hex digits, not {text!r}")
        for name, limit in TEXT_LIMITS.items():
            _check_text(name, getattr(self, name), limit)

    def _check_numbers(self) -> None:
        for name in ("next_position", "full_tokens", "image_tokens"):
            number = getattr(self, name)
            _require(_is_dimension(number), f"{name} must be a positive int, not {number!r}")
        is_pair = isinstance(self.grid, tuple) and len(self.grid) == 2 and all(map(_is_dimension, self.grid))
        _require(is_pair, f"grid must be two positive ints, not {self.grid!r}")
        _require(
            math.prod(self.grid) == self.image_tokens,
            f"grid {self.grid} does not have image_tokens={self.image_tokens} cells",
        )
        is_share = isinstance(self.retention, float) and 0 <= self.retention <= 1
        _require(is_share, f"retention must be a float between 0 and 1, not {self.retention!r}")
        is_time = isinstance(self.created_at, float) and math.isfinite(self.created_at) and self.created_at >= 0
        _require(is_time, f"created_at must be unix seconds as a float, not {self.created_at!r}")

    def _check_tensors(self) -> None:
        for name, dtypes, dimensions in (
            ("keys", CONTEXT_DTYPES, 4),
            ("values", CONTEXT_DTYPES, 4),
            ("kept_indices", (torch.int32,), 2),
            ("scores", (torch.float32,), 1),
        ):
            _check_tensor(name, getattr(self, name), dtypes, dimensions)
        shape, dtype = tuple(self.keys.shape), self.keys.dtype
        _require(min(shape) > 0, f"keys must not be empty, its shape is {shape}")
        _require(
            tuple(self.values.shape) == shape and self.values.dtype == dtype,
            f"values {self.values.dtype} {tuple(self.values.shape)} must be like keys {dtype} {shape}",
        )
        _require(
            self.next_position == self.tokens,
            f"a context is stored packed: next_position={self.next_position} must equal its {self.tokens} tokens",
        )
        _require(
            tuple(self.scores.shape) == (self.image_tokens,),
            f"scores {tuple(self.scores.shape)} must have one value for each of {self.image_tokens} image tokens",
        )

    def _check_kept(self) -> None:
        rows, kept = self.kept_indices.shape
        layers = self.keys.shape[0]
        _require(rows in (1, layers), f"kept_indices must have 1 row or {layers}, one a layer, not {rows}")
        _require(kept <= self.tokens, f"{kept} kept image tokens do not fit in {self.tokens} tokens")
        if kept:
            inside = self.kept_indices.min() >= 0 and self.kept_indices.max() < self.image_tokens
            _require(inside, f"kept_indices must lie in [0, {self.image_tokens})")
            ascending = (self.kept_indices[:, 1:] > self.kept_indices[:, :-1]).all()
            _require(ascending, "kept_indices must be strictly ascending in each row")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InvalidContextError(message)


def _is_dimension(number: object) -> bool:
    return type(number) is int and 0 < number <= MAX_DIMENSION


def _check_text(name: str, text: object, limit: int) -> None:
    _require(isinstance(text, str), f"{name} must be a str, not {type(text).__name__}")
    try:
        size = len(str(text).encode())
    except UnicodeEncodeError:
        raise InvalidContextError(f"{name} has lone surrogates and cannot be stored as UTF-8") from None
    _require(size <= limit, f"{name} has {size} bytes of UTF-8, the limit is {limit}")


def _check_tensor(name: str, tensor: object, dtypes: tuple[torch.dtype, ...], dimensions: int) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise InvalidContextError(f"{name} must be a tensor, not {type(tensor).__name__}")
    _require(tensor.dtype in dtypes, f"{name} must be {' or '.join(map(str, dtypes))}, not {tensor.dtype}")
    _require(tensor.ndim == dimensions, f"{name} must have {dimensions} dimensions, not {tensor.ndim}")
    _require(tensor.device.type == "cpu", f"{name} must be on the CPU, not on {tensor.device}")
