"""`lookonce describe`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from .._client import Client
from .._exceptions import BadRequestError, LookonceError
from .._session import ImageSession
from .._stream import DescriptionStream
from . import show
from .answering import image_of, print_json
from .terminal import Terminal


def run(client: Client, options: argparse.Namespace, terminal: Terminal) -> int:
    """Have an image described, and tell what was kept of it."""
    image = image_of(client, options)
    with image.describe() as description:
        if options.json:
            for _ in description:
                pass
            print_json({**asdict(description.context), "created": description.created})
        else:
            terminal.show(description, lambda: _doing(description))
            terminal.say(terminal.dim(f"  {show.kept(description.context, created=description.created)}"))
            terminal.say(f"lookonce:{description.context.id}")
    if options.heatmap is not None:
        _write(Path(options.heatmap), _heatmap(image, terminal))
    return 0


def _doing(description: DescriptionStream) -> str:
    """What is done before the description begins: another request may be making it, then there is none to watch."""
    return description.state if description.state != "completed" else "describing"


def _heatmap(image: ImageSession, terminal: Terminal) -> bytes:
    """Over the image, unless the server cannot tell where in it the model's tokens are."""
    try:
        return image.heatmap()
    except BadRequestError as error:
        terminal.complain(f"the heat map is drawn without the image: {error}")
        return image.heatmap(over_image=False)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise LookonceError(f"cannot write {str(path)!r}: {error.strerror}") from error
