"""From an image, and what a request wants, to a context: what its identity is, and how it is made."""

import asyncio
import time
from dataclasses import replace

from lookonce_cache import CompressedContext, ContextIdentity, digest, quantize
from lookonce_server.engines.base import DescribePlan, Description, Engine, Heard, ModelFacts
from lookonce_server.errors import InvalidRequestError
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes
from lookonce_server.sessions.context_options import ContextLimits, ContextOptions


class ContextBuilder:
    """Makes contexts as one model does.

    Args:
        engine: runs the model.
        plan: how images are described and compressed, unless a request wants it otherwise.
        limits: what a request may want.
        precision: in which keys and values are stored.
        images: decodes them.
    """

    def __init__(
        self, engine: Engine, plan: DescribePlan, limits: ContextLimits, *, precision: str, images: Images
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._limits = limits
        self._precision = precision
        self._images = images

    def check(self, options: ContextOptions) -> None:
        """Raise InvalidRequestError, naming the field, unless a request may want that."""
        self._limits.check(options, self._plan)

    def identity(self, tenant: str, data: bytes, options: ContextOptions) -> ContextIdentity:
        """What the context of an image is a function of now, as the request wants it.

        Raises:
            InvalidRequestError: the describe prompt cannot be encoded.
        """
        retention, prompt = options.retention, options.describe_prompt
        plan = replace(
            self._plan,
            retention=self._plan.retention if retention is None else retention,
            prompt=self._plan.prompt if prompt is None else prompt,
        )
        try:
            template = self._engine.template_digest(plan.prompt)
        except InvalidRequestError as error:
            raise type(error)(str(error), param=f"{options.place}describe_prompt") from error
        return context_identity(tenant, data, self._engine.facts, plan, template, self._precision)

    def is_current(self, identity: ContextIdentity) -> bool:
        """Whether a context of that identity can be used: this model made it, of the turn as it is rendered now."""
        made_here = identity.model_fingerprint == self._engine.facts.fingerprint
        return made_here and identity.template_digest == self._engine.template_digest(identity.describe_prompt)

    async def describe(self, identity: ContextIdentity, image: ImageBytes, heard: Heard) -> CompressedContext:
        """The context of that identity, which came of this image.

        It has another one where the template has printed something else since the identity was told.
        """
        pixels = await self._images.decode(image)
        plan = replace(self._plan, retention=identity.retention, prompt=identity.describe_prompt)
        found = await self._engine.describe(pixels, plan, identity.tenant, heard)
        made = replace(identity, template_digest=found.template_digest)
        return await asyncio.to_thread(context_of, made, found)


def context_identity(
    tenant: str, data: bytes, facts: ModelFacts, plan: DescribePlan, template: str, precision: str
) -> ContextIdentity:
    """What the context of an image is a function of.

    Args:
        tenant: whose it is.
        data: the image's bytes.
        facts: of the model that describes it.
        plan: how it is described and compressed.
        template: see `Engine.template_digest`.
        precision: in which keys and values are stored.
    """
    return ContextIdentity(
        tenant=tenant,
        model_fingerprint=facts.fingerprint,
        image_digest=digest(data),
        describe_prompt=plan.prompt,
        template_digest=template,
        retention=float(plan.retention),
        selection=f"{plan.selection}/{plan.rows}/{plan.max_tokens}",
        window=plan.window,
        precision=precision,
    )


def context_of(identity: ContextIdentity, found: Description) -> CompressedContext:
    """The context that a describe pass makes, its keys and values in the precision that the identity names."""
    return CompressedContext(
        identity=identity,
        keys=quantize(found.keys, "keys", identity.precision),
        values=quantize(found.values, "values", identity.precision),
        shared_tokens=found.shared_tokens,
        moved_by=found.moved_by,
        full_tokens=found.prompt_tokens,
        kept_indices=found.kept,
        scores=found.scores,
        grid=found.grid,
        description=found.text,
        created_at=time.time(),
    )
