"""Messages of the server, vLLM's scheduler and its workers.

The server writes a `Job` into a request's `kv_transfer_params`. vLLM carries it to the scheduler's half of the
connector, which turns it, step by step, into a `StepPlan` for the half in each worker. Tensors travel beside, in files
of the files.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from lookonce_pruning import ScoreQueries, TileLayout

_KEY = "lookonce"


@dataclass(frozen=True, slots=True)
class Load:
    """A packed context at a prompt's start, under placeholder tokens.

    Those are never computed.

    Attributes:
        path: of the shared file with its keys and values.
        tokens: how many.
    """

    path: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Compression:
    """The compression of a captured describe pass; see `DescribePlan`.

    Attributes:
        interleaved: see `Rope`; measured at the start.
        frames: of a video; None for an image.
        layout: of the image, or of each frame, if it has as many tokens as the prompt: the numbers of its blocks.
    """

    rows: ScoreQueries
    window: tuple[int, int]
    selection: str
    retention: float
    interleaved: bool
    frames: int | None = None
    layout: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Capture:
    """The capture of a prompt's keys and values into a file.

    Attributes:
        path: of the result; each tensor-parallel rank appends its own suffix.
        num_description_tokens: at the end of the prompt: their rows are scored, and they are dropped.
        compression: None for keys and values as they are, of all the tokens that are computed.
    """

    path: str
    num_description_tokens: int = 0
    compression: Compression | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """The work of the connector for a request."""

    load: Load | None = None
    capture: Capture | None = None

    def as_params(self) -> dict[str, Any]:
        """Return the job as `kv_transfer_params`, of plain types."""
        return {_KEY: asdict(self)}

    @staticmethod
    def is_in(params: dict[str, Any] | None) -> bool:
        """Tell whether `kv_transfer_params` hold a job, readable or not."""
        return bool(params and params.get(_KEY))

    @classmethod
    def of(cls, params: dict[str, Any] | None) -> "Job":
        """Read the job in `kv_transfer_params`."""
        job = (params or {}).get(_KEY) or {}
        load, capture = job.get("load"), job.get("capture")
        if capture is not None and capture["compression"] is not None:
            compression = dict(capture["compression"])
            compression["window"] = tuple(compression["window"])
            capture = capture | {"compression": Compression(**compression)}
        return cls(Load(**load) if load else None, Capture(**capture) if capture else None)


@dataclass(frozen=True, slots=True)
class LoadStep:
    """Before this step, load a context from token `start` on into blocks."""

    load: Load
    start: int
    block_ids: tuple[int, ...]  # of the whole request


@dataclass(frozen=True, slots=True)
class CapturedPrompt:
    """A captured prompt, as far as a worker must know it.

    Attributes:
        token_ids: the description's included.
        length: of the prompt without the description.
        image_positions: where the image tokens stand.
        grid: of the image tokens, see `ImageScores`.
        layout: likewise.
        image_features: vLLM's, without the pixels.
        scored: the rows whose attention scores the image tokens; none without a compression.
    """

    token_ids: tuple[int, ...]
    length: int
    image_positions: tuple[int, ...]
    grid: tuple[int, ...]
    image_features: tuple[Any, ...]
    layout: TileLayout | None = None
    scored: range = range(0)


@dataclass(frozen=True, slots=True)
class CaptureStep:
    """This step computes `count` tokens of a captured prompt, from `start` on."""

    request_id: str
    capture: Capture
    prompt: CapturedPrompt
    start: int
    count: int
    first_slot: int  # of the first of them in the cache: tells which rows of the batch they are
    block_ids: tuple[int, ...] = ()  # of the whole request

    @property
    def completes(self) -> bool:
        """Tell whether the prompt is whole after this step."""
        return self.start + self.count >= len(self.prompt.token_ids)


@dataclass
class StepPlan(KVConnectorMetadata):
    """The work of the workers around one step."""

    loads: list[LoadStep] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)  # blocks of requests that must not be answered
    captures: list[CaptureStep] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)  # requests whose captures are to be forgotten
