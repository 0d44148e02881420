"""Make contexts of images: their identity, and the describe pass."""

import asyncio
import time
from dataclasses import replace

from lookonce_cache import CompressedContext, ContextIdentity, ContextInfo, digest, quantize
from lookonce_server.engines.base import DescribePlan, Engine, ModelFacts, OnText
from lookonce_server.engines.description import Description
from lookonce_server.engines.visuals import Visual
from lookonce_server.errors import InvalidRequestError
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.context_options import ContextLimits, ContextOptions


class ContextBuilder:
    """Make contexts with one model.

    Args:
        engine: runs the model.
        plan: how images are described and compressed, unless a request asks for something else.
        limits: the options that a request may choose.
        precision: the storage precision of keys and values.
        images: decodes request images to RGB.
        metrics: counts what describe passes cost.
    """

    def __init__(
        self,
        engine: Engine,
        plan: DescribePlan,
        limits: ContextLimits,
        *,
        precision: str,
        images: Images,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._limits = limits
        self._precision = precision
        self._images = images
        self._metrics = metrics

    def check(self, options: ContextOptions) -> None:
        """Raise InvalidRequestError, naming the field, if options are beyond the limits."""
        self._limits.check(options, self._plan)

    def identity(self, tenant: str, image: ImageBytes, options: ContextOptions) -> ContextIdentity:
        """Return the identity that an image's or a video's context has now, under a request's options.

        Args:
            tenant: owner of the context.
            image: which may be a video.
            options: of the request.

        Raises:
            InvalidRequestError: the describe prompt cannot be encoded.
        """
        return self.identity_of(tenant, digest(image.content), options, is_video=image.sampling is not None)

    def identity_of(
        self, tenant: str, image_digest: str, options: ContextOptions, *, is_video: bool = False
    ) -> ContextIdentity:
        """Return the identity of the context of an image with a digest; see `identity`."""
        retention, prompt = options.retention, options.describe_prompt
        own_prompt = self._plan.video_prompt if is_video else self._plan.prompt
        plan = replace(
            self._plan,
            retention=self._plan.retention if retention is None else retention,
            prompt=own_prompt if prompt is None else prompt,
        )
        try:
            template = self._engine.template_digest(plan.prompt)
        except InvalidRequestError as error:
            raise type(error)(str(error), param=f"{options.place}describe_prompt") from error
        return _identity(tenant, image_digest, self._engine.facts, plan, template, self._precision)

    def is_current(self, identity: ContextIdentity) -> bool:
        """Return whether this model and its template, as it renders now, make this."""
        is_own = identity.model_fingerprint == self._engine.facts.fingerprint
        return is_own and identity.template_digest == self._engine.template_digest(identity.describe_prompt)

    async def describe(self, identity: ContextIdentity, image: ImageBytes, on_text: OnText) -> CompressedContext:
        """Describe an image, and compress it to the context of that identity.

        The context's identity is another one if the template renders something else by now, such as a new date.

        Args:
            identity: of the context.
            image: the image that the identity is of.
            on_text: called with each piece of the description; first with "", when the pass starts.
        """
        pixels = await self._images.decode(image)
        plan = replace(self._plan, retention=identity.retention, prompt=identity.describe_prompt)
        description = await self._describe(pixels, plan, identity.tenant, on_text)
        identity = replace(identity, template_digest=description.template_digest)
        return await asyncio.to_thread(context_of, identity, description)

    async def _describe(self, pixels: Visual, plan: DescribePlan, tenant: str, on_text: OnText) -> Description:
        """Describe an image, and count what it costs."""
        asked_at, started_at = time.monotonic(), 0.0

        def on_piece(text: str) -> None:
            nonlocal started_at
            started_at = started_at or time.monotonic()
            on_text(text)

        description = await self._engine.describe(pixels, plan, tenant, on_piece)
        started_at = started_at or asked_at  # an engine that tells nothing of it
        self._metrics.describe_queue_seconds.observe(started_at - asked_at)
        self._metrics.describe_run_seconds.observe(time.monotonic() - started_at)
        image_tokens = len(description.scores)
        text_tokens = description.prompt_tokens - image_tokens
        self._metrics.describe_tokens.labels("image").inc(image_tokens)
        self._metrics.describe_tokens.labels("text").inc(text_tokens)
        self._metrics.describe_tokens.labels("generated").inc(description.generated_tokens)
        self._metrics.describe_tokens.labels("recomputed").inc(description.recomputed_tokens)
        return description


def context_identity(
    tenant: str, content: bytes, facts: ModelFacts, plan: DescribePlan, template: str, precision: str
) -> ContextIdentity:
    """Return the identity of an image's context.

    Args:
        tenant: owner of the context.
        content: see `ImageBytes.content`.
        facts: of the model that describes the image.
        plan: how it is described and compressed.
        template: see `Engine.template_digest`.
        precision: the storage precision of keys and values.
    """
    return _identity(tenant, digest(content), facts, plan, template, precision)


def _identity(
    tenant: str, image_digest: str, facts: ModelFacts, plan: DescribePlan, template: str, precision: str
) -> ContextIdentity:
    return ContextIdentity(
        tenant=tenant,
        model_fingerprint=facts.fingerprint,
        image_digest=image_digest,
        describe_prompt=plan.prompt,
        template_digest=template,
        retention=float(plan.retention),
        selection=_pack_selection(plan),
        window=plan.window,
        precision=precision,
    )


def _pack_selection(plan: DescribePlan) -> str:
    """Pack a plan's selection, rows and max_tokens into one field of the identity.

    Format version 1 hashes and stores this very text: changing it changes the key of every context.
    """
    return f"{plan.selection}/{plan.rows}/{plan.max_tokens}"


def selection_method(identity: ContextIdentity | ContextInfo) -> str:
    """Parse the selection's method, with its options, from that field."""
    return identity.selection.partition("/")[0]


def context_of(identity: ContextIdentity, description: Description) -> CompressedContext:
    """Make the context of a describe pass, in the identity's precision."""
    return CompressedContext(
        identity=identity,
        keys=quantize(description.keys, "keys", identity.precision),
        values=quantize(description.values, "values", identity.precision),
        shared_tokens=description.num_prefix_tokens,
        moved_by=description.position_shift,
        full_tokens=description.prompt_tokens,
        kept_indices=description.kept,
        scores=description.scores,
        grid=description.grid,
        layout=description.layout.blocks if description.layout else None,
        states=dict(description.states),
        description=description.text,
        created_at=time.time(),
    )
