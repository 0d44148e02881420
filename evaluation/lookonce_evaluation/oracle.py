"""A choice of image tokens by one who knows where the objects are: the room that any selection has."""

import torch
from torch import Tensor

from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes.world import IMAGE_SIZE, Scene


def oracle(scene: Scene | None, grid: tuple[int, int], keep: int) -> Tensor:
    """The tokens nearest to the objects' centres, in turn: `[1, keep]`, ascending.

    Args:
        scene: what is in the picture.
        grid: rows and columns of its tokens.
        keep: how many.

    Raises:
        EvaluationError: nobody knows what is in the picture.
    """
    if scene is None:
        raise EvaluationError("the oracle needs to know where the objects are, which is known of scenes alone")
    rows, columns = torch.meshgrid(*((torch.arange(count) + 0.5) * IMAGE_SIZE / count for count in grid), indexing="ij")
    wanted = torch.zeros(grid[0] * grid[1])
    for o in scene.objects:
        distance = (rows - o.y) ** 2 + (columns - o.x) ** 2
        rank = distance.flatten().argsort().argsort()
        wanted = torch.maximum(wanted, 1 / (1 + rank))
    return wanted.topk(keep).indices.sort().values[None]
