"""Make contexts without a model."""

import torch

from lookonce_cache import CompressedContext, ContextIdentity, QuantizedTensor, digest


def synthetic_context(
    keys: QuantizedTensor,
    values: QuantizedTensor,
    *,
    name: str,
    kept: int,
    image_tokens: int,
    before: int,
    after: int,
) -> CompressedContext:
    """Make a context around keys and values.

    Args:
        keys: `[layers, kv_heads, tokens, head_dim]`.
        values: as keys.
        name: tells contexts apart.
        kept: the number of kept image tokens.
        image_tokens: the number of image tokens.
        before: the number of tokens before the image that the model's contexts share.
        after: the number of tokens after the image.
    """
    nothing = digest(b"")
    identity = ContextIdentity(
        tenant="default",
        model_fingerprint=nothing,
        image_digest=digest(name.encode()),
        describe_prompt="Describe the image.",
        template_digest=nothing,
        retention=0.05,
        selection="coverage",
        window=(keys.shape[0] // 4, keys.shape[0] // 2),
        precision=keys.precision,
    )
    return CompressedContext(
        identity=identity,
        keys=keys,
        values=values,
        shared_tokens=before,
        moved_by=kept - image_tokens,
        full_tokens=before + image_tokens + after,
        kept_indices=torch.arange(kept, dtype=torch.int32)[None],
        scores=torch.zeros(image_tokens),
        grid=(1, image_tokens),
        description="x" * 400,  # some ninety tokens
        created_at=1.8e9,
    )
