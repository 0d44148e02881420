"""What the server, vLLM's scheduler and vLLM's workers tell each other about a request.

The server writes a `Job` into a request's `kv_transfer_params`. vLLM carries it to the scheduler's half of the
connector, which turns it, step by step, into a `StepPlan` for the half in each worker. Tensors travel beside, in files
of the spool.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from lookonce_pruning import ScoreQueries

_KEY = "lookonce"


@dataclass(frozen=True, slots=True)
class Load:
    """The prompt starts with a packed context, under placeholder tokens that are never computed.

    Attributes:
        path: of the spool's file with its keys and values.
        tokens: how many.
    """

    path: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Compression:
    """What a captured describe pass is made into; the fields are those of `DescribePlan`."""

    rows: ScoreQueries
    window: tuple[int, int]
    selection: str
    retention: float


@dataclass(frozen=True, slots=True)
class Capture:
    """The keys and values of the prompt are captured as they are computed, and written to the spool.

    Attributes:
        path: of the result; each tensor-parallel rank appends its own suffix.
        said: tokens at the end of the prompt that are the description: their rows are scored, and they are dropped.
        compression: None for keys and values as they are, of all the tokens that are computed.
    """

    path: str
    said: int = 0
    compression: Compression | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a request asks of the connector."""

    load: Load | None = None
    capture: Capture | None = None

    def as_params(self) -> dict[str, Any]:
        """As `kv_transfer_params`, of plain types."""
        return {_KEY: asdict(self)}

    @staticmethod
    def is_in(params: dict[str, Any] | None) -> bool:
        """Whether `kv_transfer_params` hold a job; tells it of any that `of` reads, or fails at."""
        return bool(params and params.get(_KEY))

    @classmethod
    def of(cls, params: dict[str, Any] | None) -> "Job":
        """Read `kv_transfer_params`."""
        given = (params or {}).get(_KEY) or {}
        load, capture = given.get("load"), given.get("capture")
        if capture is not None and capture["compression"] is not None:
            compression = dict(capture["compression"])
            compression["window"] = tuple(compression["window"])
            capture = capture | {"compression": Compression(**compression)}
        return cls(Load(**load) if load else None, Capture(**capture) if capture else None)


@dataclass(frozen=True, slots=True)
class LoadStep:
    """Before this step, load the context's tokens from `start` on into these blocks."""

    load: Load
    start: int
    block_ids: tuple[int, ...]  # of the whole request


@dataclass(frozen=True, slots=True)
class CapturedPrompt:
    """What a worker must know of a captured prompt.

    Attributes:
        token_ids: the description's included.
        length: of the prompt without the description.
        image_positions: where the image tokens stand.
        grid: rows and columns of the image tokens.
        image_features: vLLM's, without the pixels.
    """

    token_ids: tuple[int, ...]
    length: int
    image_positions: tuple[int, ...]
    grid: tuple[int, int]
    image_features: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CaptureStep:
    """This step computes `count` tokens of a captured prompt, from `start` on."""

    request_id: str
    capture: Capture
    prompt: CapturedPrompt
    start: int
    count: int
    first_slot: int  # of the first of them in the cache: tells which rows of the batch they are


@dataclass
class StepPlan(KVConnectorMetadata):
    """What the workers do around one step."""

    loads: list[LoadStep] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)  # blocks of requests that must not be answered
    captures: list[CaptureStep] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)  # requests whose captures are to be forgotten
