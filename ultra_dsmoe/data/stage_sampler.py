"""Which images an epoch trains on, and with which text: the sampler behind progressive alignment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

TURNS = 2  # texts that an epoch can take one after the other


class StageSampler(Sampler[int]):
    """Give the images of a stage in an order that depends on seed and epoch alone, so that a resumed run goes on alike.

    An index says which of the two texts comes first with it: ``image + turn * count``, see `split_index`.

    Each pass over it is one epoch: loaders that fetch ahead begin the next one before the trainer does.
    """

    def __init__(self, count: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        """Begin with all images.

        Args:
            count: Number of images.
            batch: Images per batch of this process; a last batch of one is left out, as normalisation needs two.
            seed: Of the order.
            rank: Number of this process.
            world: Number of processes; each gets its share of every epoch.
        """
        self.count, self.batch, self.seed, self.rank, self.world = count, batch, seed, rank, world
        self.begin(range(count), 0)

    def begin(self, images: Sequence[int], epoch: int, alternate: bool = False) -> None:
        """Give these images from an epoch on.

        Args:
            images: Their numbers.
            epoch: The next epoch's number.
            alternate: Whether the first half of an epoch comes with one text and the rest with the other, exchanged
                from epoch to epoch.
        """
        self.images, self.epoch, self.alternate = list(images), epoch, alternate

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of an epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        own = order[self.rank :: self.world][: len(self)]
        for place, i in enumerate(own):
            turn = (2 * place // len(own) + epoch) % TURNS if self.alternate else 0
            yield self.images[i] + turn * self.count

    def __len__(self) -> int:
        """Return the number of indices of an epoch, the same in all processes."""
        own = len(self.images) // self.world
        return own - 1 if own % self.batch == 1 and own > 1 else own


def split_index(index: int, count: int) -> tuple[int, int]:
    """Return the image and the turn that an index of the sampler stands for."""
    turn, image = divmod(index, count)
    return image, turn
