"""Hold a compressed context: keys and values of an image's most important tokens."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lookonce_cache.format.quantization import QuantizedTensor
from lookonce_cache.identity import ContextIdentity, ContextKey, check_text, is_seconds, require

MAX_DIMENSION = 2**31 - 1
MAX_DESCRIPTION_BYTES = 24 * 1024  # in UTF-8
MAX_BLOCKS = 16  # of a layout
MAX_SHARE = 2**16  # of a picture's width or height: a long one is padded to a square, which is many times as wide
FACTS = ("shared_tokens", "moved_by", "full_tokens", "grid", "description", "created_at")  # see `check_facts`
OPTIONAL_FACTS = ("layout",)  # which a context has or has not
MAX_STATES = 4  # of a context
MAX_STATE_DIMENSIONS = 5
STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_STATE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

Block = tuple[int, int, int, int, int, float, float, float, float]  # see `CompressedContext.layout`


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompressedContext:
    """Hold a packed compressed context: its next RoPE position is its token count.

    The tokens before the image (system prompt, template) are the same in every context of a model and describe prompt:
    the engine has their keys and values, and they are not stored here. Only their number is, and the number of
    positions by which the context's keys were shifted when it was packed, since the shared tokens' keys must be shifted
    alike.

    Tensors are on the CPU and are shared, never copied: do not write to them.

    Attributes:
        identity: everything that the context depends on; its key follows from it.
        keys, values: of the stored tokens, [layers, kv_heads, stored tokens, head_dim] once dequantized.
        shared_tokens: number of tokens before the stored ones, equal in all contexts of the model and describe prompt.
        moved_by: RoPE positions by which the keys were rotated, of either sign.
        full_tokens: tokens of the describe turn's whole prompt before compression.
        kept_indices: [rows, kept], int32; indices into the image tokens, strictly ascending in each row. One row
            when all layers keep the same tokens, else one row a layer.
        scores: [image_tokens], float32; attention to each image token, mean over the scoring window.
        grid: height and width of the image tokens' grid; (1, image_tokens) for a model without one. Of a video the
            number of frames comes first.
        description: text that the describe pass generated.
        created_at: unix time in seconds.
        layout: where the tokens of the image, or of each frame, lie in it if they are no plain grid over all of it.
            Block after block: rows and columns of tiles, rows and columns of tokens in each tile, 1 if each such row
            ends with one more token that shows nothing, else 0; left, top, right and bottom of the block as shares of
            the picture's width and height, beyond 0 and 1 where tokens show padding. None
            where the grid tells, or nothing is known.
        states: of the model's recurrent layers after the whole describe turn, the shared tokens and the dropped image
            tokens included, by their names: `[recurrent layers, ...]`, as the model keeps them, in every precision.
            Empty for a model of attention layers alone. Where there are states, keys and values are of its attention
            layers.
        key: the content key, derived from the identity.

    Raises:
        InvalidContextError: a field has the wrong type, shape or range, or two contradict each other.
    """

    identity: ContextIdentity
    keys: QuantizedTensor = field(repr=False)
    values: QuantizedTensor = field(repr=False)
    shared_tokens: int
    moved_by: int
    full_tokens: int
    kept_indices: torch.Tensor = field(repr=False)
    scores: torch.Tensor = field(repr=False)
    grid: tuple[int, ...]
    description: str
    created_at: float
    layout: tuple[Block, ...] | None = None
    states: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    key: ContextKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        is_identity = isinstance(self.identity, ContextIdentity)
        require(is_identity, f"identity must be a ContextIdentity, not {_kind(self.identity)}")
        object.__setattr__(self, "key", self.identity.key())
        check_facts(**{name: getattr(self, name) for name in (*FACTS, *OPTIONAL_FACTS)})
        self._check_stored()
        self._check_image()
        self._check_kept()
        self._check_states()
        require(
            self.tokens <= self.full_tokens,
            f"a context of {self.tokens} tokens cannot come from full_tokens={self.full_tokens}",
        )

    @property
    def id(self) -> str:
        """The id of the content key, 64 lowercase hex digits."""
        return self.key.id

    @property
    def stored_tokens(self) -> int:
        """The number of stored positions."""
        return self.keys.shape[2]

    @property
    def tokens(self) -> int:
        """The number of positions, and the RoPE position of the first token after them."""
        return self.shared_tokens + self.stored_tokens

    @property
    def image_tokens(self) -> int:
        """The number of image tokens in the describe turn's prompt."""
        return self.scores.shape[0]

    @property
    def frames(self) -> int | None:
        """The number of frames, as the model sees them, of a video; None for an image."""
        return frames_of(self.grid)

    @property
    def kept_tokens(self) -> int:
        """The number of image tokens kept, in each layer."""
        return self.kept_indices.shape[1]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors together."""
        states = sum(state.nbytes for state in self.states.values())
        return states + sum(part.nbytes for part in (self.keys, self.values, self.kept_indices, self.scores))

    def _check_stored(self) -> None:
        for role in ("keys", "values"):
            tensor = getattr(self, role)
            require(isinstance(tensor, QuantizedTensor), f"{role} must be a QuantizedTensor, not {_kind(tensor)}")
            require(tensor.role == role, f"{role} must be stored as {role}, not as {tensor.role}")
            precision = self.identity.precision
            require(
                tensor.precision == precision,
                f"{role} are stored as {tensor.precision}, the identity says {precision}",
            )
        shape = self.keys.shape
        require(min(shape) > 0, f"keys must not be empty, its shape is {shape}")
        require(
            self.values.shape == shape and self.values.dtype == self.keys.dtype,
            f"values {self.values.dtype} {self.values.shape} must be like keys {self.keys.dtype} {shape}",
        )

    def _check_image(self) -> None:
        for name, dtype, dimensions in (("kept_indices", torch.int32, 2), ("scores", torch.float32, 1)):
            tensor = getattr(self, name)
            is_like = isinstance(tensor, torch.Tensor) and tensor.dtype == dtype and tensor.ndim == dimensions
            require(is_like, f"{name} must be a {dtype} tensor with {dimensions} dimensions, not {_kind(tensor)}")
            require(tensor.device.type == "cpu", f"{name} must be on the CPU, not on {tensor.device}")
        require(
            math.prod(self.grid) == self.image_tokens,
            f"grid {self.grid} does not have a cell for each of {self.image_tokens} scores",
        )

    def _check_kept(self) -> None:
        rows, kept = self.kept_indices.shape
        layers = self.keys.shape[0]
        require(rows in (1, layers), f"kept_indices must have 1 row or {layers}, one a layer, not {rows}")
        require(kept <= self.stored_tokens, f"{kept} kept image tokens do not fit in {self.stored_tokens} tokens")
        if kept:
            inside = self.kept_indices.min() >= 0 and self.kept_indices.max() < self.image_tokens
            require(inside, f"kept_indices must lie in [0, {self.image_tokens})")
            ascending = (self.kept_indices[:, 1:] > self.kept_indices[:, :-1]).all()
            require(ascending, "kept_indices must be strictly ascending in each row")

    def _check_states(self) -> None:
        require(isinstance(self.states, Mapping), f"states must be a mapping, not {_kind(self.states)}")
        for name, tensor in self.states.items():
            require(isinstance(tensor, torch.Tensor), f"state {name!r} must be a tensor, not {_kind(tensor)}")
            require(tensor.device.type == "cpu", f"state {name!r} must be on the CPU, not on {tensor.device}")
        check_states([(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.states.items()])


def frames_of(grid: tuple[int, ...]) -> int | None:
    """Return the number of frames of a video's grid; None for an image's."""
    return grid[0] if len(grid) == 3 else None


def check_facts(
    *,
    shared_tokens: object,
    moved_by: object,
    full_tokens: object,
    grid: object,
    description: object,
    created_at: object,
    layout: object = None,
) -> None:
    """Raise InvalidContextError unless each of these fields of a context is valid."""
    is_count = type(shared_tokens) is int and 0 <= shared_tokens <= MAX_DIMENSION
    require(is_count, "shared_tokens must be an int from 0 on", shared_tokens)
    is_shift = type(moved_by) is int and abs(moved_by) <= MAX_DIMENSION
    require(is_shift, f"moved_by must be an int, at most {MAX_DIMENSION} either way", moved_by)
    require(_is_dimension(full_tokens), "full_tokens must be a positive int", full_tokens)
    is_grid = isinstance(grid, tuple) and len(grid) in (2, 3) and all(map(_is_dimension, grid))
    require(is_grid, "grid must be two positive ints, or three", grid)
    check_text("description", description, MAX_DESCRIPTION_BYTES)
    require(is_seconds(created_at), "created_at must be unix seconds, a float", created_at)
    if layout is not None:
        assert isinstance(grid, tuple)
        is_layout = isinstance(layout, tuple) and 0 < len(layout) <= MAX_BLOCKS and all(map(_is_block, layout))
        require(is_layout, f"layout must be 1 to {MAX_BLOCKS} blocks of five ints and four floats", layout)
        assert isinstance(layout, tuple)
        _check_tokens(layout, grid)


def check_states(states: Sequence[tuple[object, object, tuple[object, ...]]]) -> None:
    """Raise InvalidContextError unless these can be a context's states.

    Args:
        states: name, dtype and shape of each.
    """
    require(len(states) <= MAX_STATES, f"there are at most {MAX_STATES} states, not {len(states)}")
    names = [name for name, _, _ in states]
    for name, dtype, shape in states:
        is_name = isinstance(name, str) and _STATE_NAME.fullmatch(name) is not None and names.count(name) == 1
        require(is_name, "a state has a name of its own, of 1 to 32 of a-z, 0-9 and _, a letter first", name)
        require(dtype in STATE_DTYPES, f"a state is {' or '.join(map(str, STATE_DTYPES))}", dtype)
        is_shape = 0 < len(shape) <= MAX_STATE_DIMENSIONS and all(map(_is_dimension, shape))
        require(is_shape, f"a state has 1 to {MAX_STATE_DIMENSIONS} sizes, all above 0", shape)
        assert all(isinstance(size, int) for size in shape)
        require(math.prod(shape) < 2**48, "a state has less than 2**48 elements", shape)  # type: ignore[arg-type]


def _kind(value: object) -> str:
    """Name a value's type for an error message, without printing a tensor's elements."""
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor with {value.ndim} dimensions"
    return type(value).__name__


def _is_block(block: object) -> bool:
    if not isinstance(block, tuple) or len(block) != 9:
        return False
    *sizes, breaks, left, top, right, bottom = block
    area = (left, top, right, bottom)
    if not all(map(_is_dimension, sizes)) or type(breaks) is not int or breaks not in (0, 1):
        return False
    if not all(type(share) is float and abs(share) <= MAX_SHARE for share in area):
        return False
    return bool(min(right - left, bottom - top) >= 1 / MAX_SHARE)


def _check_tokens(layout: tuple[Block, ...], grid: tuple[int, ...]) -> None:
    tokens = 0
    for tile_rows, tile_columns, rows, columns, breaks, *_ in layout:
        tokens += tile_rows * tile_columns * rows * (columns + breaks)
    tokens, expected = tokens * (frames_of(grid) or 1), math.prod(grid)
    require(tokens == expected, f"layout has {tokens} tokens, not the {expected} of grid {grid}")


def _is_dimension(number: object) -> bool:
    return type(number) is int and 0 < number <= MAX_DIMENSION
