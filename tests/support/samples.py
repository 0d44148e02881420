"""Pictures with known content, and short ways to ask about them."""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from PIL import Image

from lookonce_cache import DEFAULT_TENANT, CompressedContext, ContextInfo, Store
from lookonce_scenes.world import Scene, render, sample_scene
from lookonce_server.engines.base import DescribePlan, Engine, Piece, Sampling, Started
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.images.decode import DecodeProcesses, ImageLimits
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextOptions
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.fallback import Fallback
from lookonce_server.sessions.lookup import Lookup
from lookonce_server.sessions.sessions import Sessions

TENANT = DEFAULT_TENANT
ANSWER_TOKENS = 300  # most tokens of an answer of `app`
PROMPT = "Describe the image."
PLAN = DescribePlan(prompt=PROMPT, max_tokens=48, rows="generated", window=(2, 6), selection="coverage", retention=0.05)
EVERYTHING = replace(PLAN, retention=1.0)
GREEDY = Sampling(max_tokens=24)


@cache
def scene(seed: int) -> Scene:
    """A held-out scene: seeds below 1e9 are never trained on."""
    return sample_scene(seed, 1, 3)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(render(scene(seed)))


@cache
def png(seed: int) -> bytes:
    return encoded(picture(seed), "PNG")


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@cache
def decode_processes() -> DecodeProcesses:
    """Those of all tests."""
    return DecodeProcesses()


def about(question: str, images: int = 1) -> Conversation:
    """A question about images."""
    return Conversation((Turn("user", (*range(images), question)),))


@dataclass
class Asked:
    """A whole answer."""

    started: Started
    pieces: list[Piece]
    lookup: Lookup | None = None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish_reason(self) -> str | None:
        return self.pieces[-1].finish_reason


async def read(answer: AsyncIterator[Started | Piece], lookup: Lookup | None = None) -> Asked:
    """An answer, taken to its end; its pieces without their times, so that two answers may be alike."""
    started, *pieces = [event async for event in answer]
    assert isinstance(started, Started)
    return Asked(started, [piece._replace(made_at=None) for piece in pieces], lookup)


def tasks_of(kind: type) -> list[asyncio.Task]:
    """The tasks that run a method of a class."""
    return [task for task in asyncio.all_tasks() if task.get_coro().__qualname__.startswith(f"{kind.__name__}.")]


@dataclass
class Bench:
    """Sessions with what they stand on."""

    engine: Engine
    store: Store
    plan: DescribePlan
    limits: ImageLimits = field(default_factory=ImageLimits)
    metrics: Metrics = field(default_factory=Metrics)

    precision: str = "native"
    fallback: Fallback = field(default_factory=Fallback)
    keep_images: bool = False

    def __post_init__(self) -> None:
        self.images = Images(self.limits, processes=decode_processes(), metrics=self.metrics)
        self.contexts = Contexts(
            self.engine,
            self.store,
            plan=self.plan,
            precision=self.precision,
            images=self.images,
            metrics=self.metrics,
            keep_images=self.keep_images,
        )
        self.sessions = Sessions(
            self.engine,
            self.contexts,
            images=self.images,
            on_miss="full",
            metrics=self.metrics,
            fallback=self.fallback,
        )

    async def ask(
        self, image: bytes | str, question: str, on_miss=None, sampling: Sampling = GREEDY, tenant: str = TENANT
    ) -> Asked:
        """Ask about an image, given by its bytes or by its context's id."""
        return (await self.ask_often(image, question, 1, on_miss, sampling, tenant))[0]

    async def ask_often(
        self,
        image: bytes | str,
        question: str,
        n: int,
        on_miss=None,
        sampling: Sampling = GREEDY,
        tenant: str = TENANT,
    ) -> list[Asked]:
        """Ask once, for several answers."""
        options = ContextOptions(on_miss=on_miss)
        return await self.ask_about([image], question, options, n=n, sampling=sampling, tenant=tenant)

    async def ask_about(
        self,
        images: Sequence[bytes | str],
        question: str | Conversation,
        options: ContextOptions = NO_OPTIONS,
        *,
        n: int = 1,
        sampling: Sampling = GREEDY,
        tenant: str = TENANT,
    ) -> list[Asked]:
        """Ask once about images, each given by its bytes or by its context's id."""
        conversation = about(question, len(images)) if isinstance(question, str) else question
        sources = [
            ContextReference(image) if isinstance(image, str) else ImageBytes(image, f"image[{i}]")
            for i, image in enumerate(images)
        ]
        session = await self.sessions.ask(conversation, sources, sampling, tenant=tenant, options=options, n=n)
        return [await read(answer, session.lookup) for answer in session.answers]

    async def create(self, image: bytes) -> CompressedContext:
        """The image's context, made now unless there is one."""
        return await self.contexts.create(TENANT, ImageBytes(image, "image"))

    def context_id(self, image: bytes) -> str:
        """The id of the image's context."""
        return self.contexts.identity(TENANT, ImageBytes(image, "image")).key().id

    async def listed(self) -> tuple[ContextInfo, ...]:
        """What the store has."""
        return (await self.store.list(TENANT)).infos

    async def settle(self) -> None:
        """Wait for the describe passes that run behind."""
        await asyncio.wait(
            [
                asyncio.ensure_future(asyncio.sleep(0)),
                *(one.task for one in self.contexts.describe_queue._jobs.values()),
            ]
        )

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value, summed over the labels that are not given; 0 while it has none."""
        samples = [sample for family in self.metrics.registry.collect() for sample in family.samples]
        return sum(s.value for s in samples if s.name == f"lookonce_{name}" and labels.items() <= s.labels.items())
