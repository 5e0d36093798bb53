"""What runs on which NVIDIA card: one recipe per family, every row with its source.

Nothing here was tried on a GTX 1080; rows are read from documentation, package metadata and bug reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Version = tuple[int, ...]
Sm = tuple[int, int]  # compute capability


class Range(NamedTuple):
    """Releases from ``first`` up to but without ``below``; ``cuda`` is the only CUDA build that counts, if given."""

    first: Version
    below: Version | None = None
    cuda: str | None = None

    def holds(self, version: Version, cuda: str | None = None) -> bool:
        """Whether a release is in the range."""
        newer = self.below is not None and version >= self.below
        return version >= self.first and not newer and self.cuda in (None, cuda)


class Part(NamedTuple):
    """One row of a recipe: what to take, where that is known from, the releases that can work, and the reason."""

    take: str
    source: str
    allowed: tuple[Range, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Recipe:
    """Software and settings for one family of cards.

    Attributes:
        family: Name of the family.
        sm: First and last compute capability.
        parts: Rows by the name of the part, in the order to print.
        precisions: What the card is built for.
        opsets: First and last ONNX opset that its TensorRT reads rightly.
        numbers: The row for the precisions.
        install: Commands that bring the parts.
    """

    family: str
    sm: tuple[Sm, Sm]
    parts: dict[str, Part]
    precisions: tuple[str, ...]
    opsets: tuple[int, int]
    numbers: Part
    install: tuple[str, ...]


OPSET = 17
MODE = "static"
PRECISIONS = ("fp32", "fp16", "int8")

_MATRIX = "TensorRT 8.6.1 support matrix"
_OPSET_86 = Part(
    str(OPSET),
    "onnx-tensorrt 8.6-GA, operators.md and importers",
    why="18 is read without complaint and reduces over the wrong axes",
)
_OPSET_10 = Part(
    str(OPSET), "NVIDIA/TensorRT#4646; 10.0 documents 9 to 20", why="GridSample of opset 20 is wrong in TensorRT 10.13"
)
_MODE = Part(f"dsmoe_moe={MODE}", "our choice, see docs/edge.md", why="a few experts with constant weights")
_LAST_DRIVER = Part(
    "525 to 580",
    "DALI support matrix (CUDA 12 needs 525); NVIDIA's Unix deprecation schedule (580 is the last branch)",
    (Range((525,), (581,)),),
)
_PASCAL: dict[str, Part] = {
    "python": Part("3.10 or 3.11", "tensorrt-bindings 8.6.1 on PyPI: wheels up to cp311", (Range((3, 10), (3, 12)),)),
    "torch": Part(
        "2.3.1 with torchvision 0.18.1",
        "flags of the 2.3.1 wheel; pytorch#157517, #172352 (2.8 to 2.14: only cu126 builds), #190385 (2.15: none)",
        (Range((2, 3), (2, 8)), Range((2, 8), (2, 15), cuda="12.6")),
        "CUDA 12.1 and cuDNN 8 as TensorRT 8.6.1 has them; other builds dropped the card",
    ),
    "tensorrt": Part(
        "8.6.1",
        "NVIDIA/TensorRT#3589, #3826; TensorRT 10.1 support matrix (SM 7.0 or higher)",
        (Range((8, 6), (8, 7)),),
        "the last for the card; 10.x stops with 'Unsupported SM'",
    ),
    "cuda": Part("12.1 with cuDNN 8.9, from torch's wheels", _MATRIX),
    "driver": _LAST_DRIVER,
}
_PASCAL_INSTALL = (
    "pip install torch==2.3.1 torchvision==0.18.1",
    "pip install tensorrt==8.6.1   # or NVIDIA's tar of 8.6.1.6, where its package index no longer has it",
    "pip install 'ultra-dsmoe[edge]'",
    "export YOLO_AUTOINSTALL=false   # Ultralytics would fetch a TensorRT that does not know the card",
)
_ANY_PYTHON = Part("3.10 or newer", "this package", (Range((3, 10)),))
_ANY_TORCH = Part("2.3 or newer, in a build for the card", "this package", (Range((2, 3)),))
_INSTALL = ("pip install 'ultra-dsmoe[edge,tensorrt]'",)


def _newer(tensorrt: Part, driver: Part) -> dict[str, Part]:
    """Return the rows of a card that current software serves."""
    return {"python": _ANY_PYTHON, "torch": _ANY_TORCH, "tensorrt": tensorrt, "driver": driver}


RECIPES = (
    Recipe(
        "Pascal",
        ((6, 0), (6, 0)),
        {**_PASCAL, "opset": _OPSET_86, "mode": _MODE},
        ("fp32", "fp16"),
        (9, 17),
        Part(
            "fp32 or fp16",
            "NVIDIA, 8-bit inference with TensorRT: DP4A from SM 6.1",
            why="the card has no 8-bit dot product",
        ),
        _PASCAL_INSTALL,
    ),
    Recipe(
        "Pascal",
        ((6, 1), (6, 1)),
        {**_PASCAL, "opset": _OPSET_86, "mode": _MODE},
        ("fp32", "int8"),
        (9, 17),
        Part(
            "fp32 or int8",
            f"CUDA guide, throughput of SM 6.1; {_MATRIX}",
            why="half precision runs at 1/64 of the rate",
        ),
        _PASCAL_INSTALL,
    ),
    Recipe(
        "Volta",
        ((7, 0), (7, 0)),
        {
            **_newer(
                Part(
                    "10.4",
                    "TensorRT 10.5.0 release notes",
                    (Range((8, 6), (9,)), Range((10,), (10, 5))),
                    "the last for the card",
                ),
                _LAST_DRIVER,
            ),
            "opset": _OPSET_10,
            "mode": _MODE,
        },
        PRECISIONS,
        (9, 19),
        Part("fp32, fp16 or int8", _MATRIX),
        ("pip install tensorrt==10.4.0", "pip install 'ultra-dsmoe[edge]'", "export YOLO_AUTOINSTALL=false"),
    ),
    Recipe(
        "Turing, Ampere, Ada or Hopper",
        ((7, 5), (9, 0)),
        {
            **_newer(
                Part(
                    "10.x but 10.2.0; 8.6.1 with Python up to 3.11",
                    "TensorRT 11.4.0 prerequisites (Turing or newer); Ultralytics' own exclusion",
                    (Range((8, 6), (9,)), Range((10,), (10, 2)), Range((10, 3), (12,))),
                ),
                Part("525 or newer", "DALI support matrix", (Range((525,)),)),
            ),
            "opset": _OPSET_10,
            "mode": _MODE,
        },
        PRECISIONS,
        (9, 19),
        Part("fp32, fp16 or int8", _MATRIX),
        _INSTALL,
    ),
    Recipe(
        "Blackwell",
        ((10, 0), (12, 1)),
        {
            **_newer(
                Part("10.8 or newer", "TensorRT 10.8.0 release notes", (Range((10, 8), (12,)),)),
                Part("525 or newer", "DALI support matrix", (Range((525,)),)),
            ),
            "opset": _OPSET_10,
            "mode": _MODE,
        },
        PRECISIONS,
        (9, 19),
        Part("fp32, fp16 or int8", "TensorRT 10.8.0 release notes"),
        ("pip install 'tensorrt>=10.8,<11'", "pip install 'ultra-dsmoe[edge]'"),
    ),
)
# Cards without a recipe: compute capabilities, and the reason.
JETSON = Part("no recipe: TensorRT comes with JetPack there", "developer.nvidia.com/cuda-gpus")
TOO_OLD = Part("no recipe: TensorRT 8.6 no longer builds for it", "NVIDIA/TensorRT#3589: 8.5.3 is the last")
WITHOUT: dict[Sm, Part] = dict.fromkeys(((5, 3), (6, 2), (7, 2), (8, 7), (11, 0)), JETSON)

# Source: developer.nvidia.com/cuda-gpus and /cuda-legacy-gpus. Names without maker and brand, in lower case.
_CARDS: dict[Sm, str] = {
    (5, 2): "gtx 980 ti, gtx 980, gtx 970, gtx 960, gtx 950, gtx titan x, m40, m60",
    (5, 3): "jetson nano",
    (6, 0): "p100, gp100",
    (
        6,
        1,
    ): "gtx 1080 ti, gtx 1080, gtx 1070 ti, gtx 1070, gtx 1060, gtx 1050 ti, gtx 1050, titan x, titan xp, p4, p40, "
    "p1000, p2000, p2200, p4000, p5000, p6000",
    (6, 2): "jetson tx2",
    (7, 0): "v100, titan v, gv100",
    (7, 2): "jetson agx xavier, jetson xavier nx",
    (7, 5): "t4, gtx 1650, gtx 1660, gtx 1660 ti, rtx 2060, rtx 2070, rtx 2080, rtx 2080 ti, titan rtx",
    (8, 0): "a100, a30",
    (8, 6): "a2, a10, a16, a40, rtx 3050, rtx 3060, rtx 3060 ti, rtx 3070, rtx 3070 ti, rtx 3080, rtx 3080 ti, "
    "rtx 3090, rtx 3090 ti, rtx a2000, rtx a4000, rtx a5000, rtx a6000",
    (8, 7): "jetson agx orin, jetson orin nx, jetson orin nano",
    (8, 9): "l4, l40, l40s, rtx 4050, rtx 4060, rtx 4060 ti, rtx 4070, rtx 4070 ti, rtx 4080, rtx 4090",
    (9, 0): "h100, h200, gh200",
    (10, 0): "b200, gb200",
    (12, 0): "rtx 5050, rtx 5060, rtx 5060 ti, rtx 5070, rtx 5070 ti, rtx 5080, rtx 5090",
}
CARDS: dict[str, Sm] = {name: sm for sm, names in _CARDS.items() for name in names.split(", ")}
