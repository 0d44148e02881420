"""Short ways to make contexts with an engine, and to ask it."""

from dataclasses import replace

from PIL import Image

from lookonce_cache import CompressedContext
from lookonce_server.engines.base import DescribePlan, Engine, Sampling
from lookonce_server.engines.conversation import Conversation
from lookonce_server.sessions.context_builder import context_identity
from lookonce_server.sessions.context_builder import context_of as context_of_description

from .samples import GREEDY, PLAN, TENANT, Asked, about, read


async def context_of(
    engine: Engine, image: Image.Image, plan: DescribePlan = PLAN, precision: str = "native", **changes
) -> CompressedContext:
    """The image's context, made by that engine."""
    plan = replace(plan, **changes)
    template = engine.template_digest(plan.prompt)
    content = b"".join(picture.tobytes() for picture in getattr(image, "frames", (image,)))
    identity = context_identity(TENANT, content, engine.facts, plan, template, precision)
    return context_of_description(identity, await engine.describe(image, plan, TENANT))


async def answered(
    engine: Engine, context: CompressedContext, question: str | Conversation, sampling: Sampling = GREEDY
) -> Asked:
    """A whole answer from a context."""
    conversation = about(question) if isinstance(question, str) else question
    return await read(engine.answer([context], conversation, sampling))


async def fully(
    engine: Engine, image: Image.Image | None, question: str | Conversation, sampling: Sampling = GREEDY
) -> Asked:
    """A whole answer from the whole image, or from a conversation without one."""
    conversation = about(question) if isinstance(question, str) else question
    return await read(engine.full(conversation, [image] if image else [], sampling, TENANT))
