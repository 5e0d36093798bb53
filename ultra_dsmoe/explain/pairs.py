"""What a classifier that texts teach makes of pictures and their texts: the vectors of both, and how it weighs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from ultralytics.data.augment import classify_transforms

from ultra_dsmoe.data.pairs import require_room, with_plane
from ultra_dsmoe.errors import TextError
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_text import PairText
from ultra_dsmoe.nn.fusion.cmaf import CMAF, GATED
from ultra_dsmoe.text.sidecars import ImageText

BATCH = 32
PARTS = ("first text", "second text", "picture")  # in the order of the weights W
PERPLEXITY = 30.0  # of t-SNE, scikit-learn's


@dataclass
class Pairs:
    """Pictures with their texts as a net sees them; vectors have length 1.

    Attributes:
        files: Image files, I of them.
        names: Of the classes.
        target: Class of each, (I,).
        vectors: Of picture, first and second text, (3, I, c).
        weights: W of both texts and the picture, (I, 3); None where the net weighs nothing.
        texts: Both texts of each.
    """

    files: list[Path]
    names: list[str]
    target: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray | None
    texts: list[ImageText]

    @property
    def likeness(self) -> np.ndarray:
        """Mean cosine similarity of each picture and its texts, (I,)."""
        return (self.vectors[0] * self.vectors[1:]).sum(2).mean(0)

    def likeness_of_others(self) -> float:
        """Mean cosine similarity of pictures and the texts of other classes' pictures."""
        others = self.target[:, None] != self.target[None]
        return float(np.mean([(self.vectors[0] @ text.T)[others].mean() for text in self.vectors[1:]]))


def text_of(net: PairModel) -> PairText:
    """Return how a net's images get their texts.

    Raises:
        TextError: If it was never trained.
    """
    if net.pair_text is None:
        raise TextError("model", "one that was trained, which has its texts' encoder", "one that was not")
    return PairText.from_state(net.pair_text)


@torch.no_grad()
def look(
    net: PairModel, text: PairText, files: Sequence[Path], target: np.ndarray, names: list[str], imgsz: int
) -> Pairs:
    """Run a net on pictures with their texts.

    Args:
        net: The network.
        text: How they get their texts.
        files: Image files.
        target: Class of each.
        names: Of the classes.
        imgsz: Size of the images in pixels.
    """
    require_room(text.size, (imgsz, imgsz))
    numbers, transforms = text.encode(files).numbers, classify_transforms(size=imgsz)
    net.float().eval()
    fusion = next((m for m in net.modules() if isinstance(m, CMAF) and m.fusion in GATED), None)
    vectors: list[list[Tensor]] = [[], [], []]
    weights: list[Tensor] = []
    net.head.whole = True
    if fusion is not None:
        fusion.record_weights = True
    try:
        for start in range(0, len(files), BATCH):
            part = slice(start, start + BATCH)
            pictures = [transforms(Image.open(file).convert("RGB")) for file in files[part]]
            planes = [with_plane(p, own) for p, own in zip(pictures, numbers[part], strict=True)]
            out: Any = net(torch.stack(planes))
            for kept, found in zip(vectors, (out.image, out.vlm, out.llm), strict=True):
                kept.append(torch.nn.functional.normalize(found, dim=1))
            if fusion is not None and fusion.weights is not None:
                weights.append(fusion.weights)
    finally:
        net.head.whole = False
        if fusion is not None:
            fusion.record_weights = False
    stack = torch.stack([torch.cat(kept) for kept in vectors]).numpy()
    w = torch.cat(weights).numpy() if weights else None
    return Pairs(list(files), names, target, stack, w, text.source.read(files))


def in_turn(target: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the numbers of some images, of all classes in turn, any of each."""
    rng = np.random.default_rng(seed)
    classes = [rng.permutation(np.flatnonzero(target == c)) for c in np.unique(target)]
    longest = max(map(len, classes))
    turns = [images[i] for i in range(longest) for images in classes if i < len(images)]
    return np.array(turns[:count])


def flat(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Return vectors on a plane, and how they got there.

    Args:
        vectors: (3, I, c).
        seed: Of t-SNE.

    Returns:
        Points (3, I, 2), and the method: t-SNE, or the two main axes where scikit-learn is not installed.
    """
    every = vectors.reshape(-1, vectors.shape[2])
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        centred = every - every.mean(0)
        axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
        return (centred @ axes.T).reshape(*vectors.shape[:2], 2), "main axes"
    perplexity = min(PERPLEXITY, (len(every) - 1) / 3)
    made = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(every)
    return made.reshape(*vectors.shape[:2], 2), "t-SNE"
