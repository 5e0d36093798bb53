"""Does the mismatch tell a wrong reference: ``python -m benchmarks.reference_mismatch --data YAML [--pairs N]``.

Of each of N images, the mismatch with its own reference and with that of another image, as they are and with the
references moved, in other light, blurred or turned. A reference with the pixels of the image's own is no wrong one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ultra_dsmoe.data.labelled import read_set, split_labels
from ultra_dsmoe.data.reference.choice import chosen
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.reference.registration import MISMATCH_LIMIT, QUALITY_LIMIT, measured
from ultra_dsmoe.errors import DataError, DSMoEError

PAIRS, SEED = 200, 0
Picture = np.ndarray


def moved(picture: Picture, matrix: np.ndarray) -> Picture:
    """Return a picture elsewhere; its edges go on outwards."""
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def shifted(picture: Picture, x: float, y: float) -> Picture:
    """Return a picture moved by pixels."""
    return moved(picture, np.array([[1, 0, x], [0, 1, y]], np.float32))


def turned(picture: Picture, degrees: float) -> Picture:
    """Return a picture turned about its middle."""
    h, w = picture.shape[:2]
    return moved(picture, cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1))


def exposed(picture: Picture, factor: float) -> Picture:
    """Return a picture that is brighter or darker."""
    return np.clip(picture * np.float32(factor), 0, 255).astype(np.uint8)


CASES: dict[str, Callable[[Picture], Picture]] = {
    "as it is": lambda p: p,
    "shift 3 px": lambda p: shifted(p, 3, -3),
    "exposure +30 %": lambda p: exposed(p, 1.3),
    "exposure -30 %": lambda p: exposed(p, 0.7),
    "blur 2 px": lambda p: cv2.GaussianBlur(p, (0, 0), 2),
    "shift, -30 %, blur": lambda p: cv2.GaussianBlur(exposed(shifted(p, -3, 3), 0.7), (0, 0), 2),
    "turned by 1 degree": lambda p: turned(p, 1),
    "turned by 2 degrees": lambda p: turned(p, 2),
}


def read_pairs(data: str, count: int) -> list[tuple[Picture, Picture, Picture]]:
    """Return images of all splits, each with its own reference and another one's."""
    content = read_set(data)
    spec = chosen(content, Path(content["path"]))
    if spec is None:
        raise DataError("data", "a data YAML with reference:", data)
    references, rng = References(spec, 3), np.random.default_rng(SEED)
    labels = [label for split in ("train", "val") for label in split_labels(content, split)]
    files = [Path(labels[i]["im_file"]) for i in rng.permutation(len(labels))[: count + 1]]
    own = [references.load(file).pixels for file in files]
    pairs = []
    for i, file in enumerate(files):
        others = [j for j in np.roll(np.arange(len(files)), -i)[1:] if own[j].shape == own[i].shape]
        other = next(j for j in others if not np.array_equal(own[i], own[j]))
        image = cv2.imread(str(file))
        assert image is not None  # or the host would not have it among its labels
        pairs.append((image, own[i], own[other]))
    return pairs[:count]


def scores(image: Picture, reference: Picture, align: str) -> tuple[float, float]:
    """Return mismatch and quality of a pair, the latter nan where it is not registered."""
    found = measured(image, reference, align)
    return found.mismatch, np.nan if found.quality is None else found.quality


def row(pairs: list[tuple[Picture, Picture, Picture]], change: Callable[[Picture], Picture], align: str) -> str:
    """Return what a case shows, in cells of a table."""
    right = np.array([scores(image, change(own), align) for image, own, _ in pairs])
    wrong = np.array([scores(image, change(other), align) for image, _, other in pairs])
    gap = wrong[:, None, 0] - right[None, :, 0]
    auc = (gap > 0).mean() + (gap == 0).mean() / 2
    alarms, missed = (right[:, 0] > MISMATCH_LIMIT).mean(), (wrong[:, 0] <= MISMATCH_LIMIT).mean()
    cells = [f"{auc:.4f}", f"{np.quantile(right[:, 0], 0.95):.2f}", f"{right[:, 0].max():.2f}"]
    cells += [f"{np.quantile(wrong[:, 0], 0.05):.2f}", f"{wrong[:, 0].min():.2f}", f"{alarms:.1%}", f"{missed:.1%}"]
    if align != "none":
        cells += [f"{(right[:, 1] < QUALITY_LIMIT).mean():.1%}", f"{(wrong[:, 1] < QUALITY_LIMIT).mean():.1%}"]
    return " | ".join(cells)


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--align", choices=("none", "shift", "affine"), default="none")
    options = parser.parse_args(argv)
    try:
        pairs = read_pairs(options.data, options.pairs)
    except DSMoEError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    heads = ["reference", "AUC", "right 95 %", "right max", "wrong 5 %", "wrong min", "right above limit"]
    heads += ["wrong below limit"] + ["right not laid", "wrong not laid"] * (options.align != "none")
    print(f"{len(pairs)} right and {len(pairs)} wrong pairs, align: {options.align}, limit {MISMATCH_LIMIT:g}\n")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, change in CASES.items():
        print(f"| {name} | {row(pairs, change, options.align)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
