"""Read the record off a picture of the recorded text, such as a machine's screen: lines of names and numbers.

RapidOCR carries its networks in its package and needs no network; CnOCR is taken where it is named. Both give pieces
of text with their places, which are put together to lines and read by patterns that forgive what OCR gets wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ultra_dsmoe.errors import DataError, TextError, did_you_mean

ENGINES = ("rapidocr", "cnocr")
SAME_LINE = 0.5  # heights of a piece between the middles of two pieces of one line (our choice)
SHOWN = 60  # characters of what was read, in a message
_NUMBER = r"([-+]? ?[\doO]+(?:[.,][\doO]+)?)(?![\w.,]*\w)"
_NAMED = re.compile(rf"([A-Za-z][\w ]*?) *[:=]+ *{_NUMBER}")
# Where the colon was not seen, or seen as a dot; before a minus sign the blank may be gone too.
_BARE = re.compile(rf"([A-Za-z]\w*(?: [A-Za-z]\w*)*)(?:[ .,;]+|(?=-)){_NUMBER}")
_MINUS = str.maketrans(dict.fromkeys("−–—‐‑一", "-"))  # the last is a Chinese numeral that looks like one

Piece = tuple[str, np.ndarray]  # text, and corners [4, 2] in pixels
Engine = Callable[[np.ndarray], Sequence[Piece]]


class OcrReader:
    """Reads records by OCR.

    Args:
        engine: ``rapidocr`` or ``cnocr``.

    Raises:
        TextError: If it is another.
    """

    def __init__(self, engine: str = ENGINES[0]) -> None:
        if engine not in ENGINES:
            raise TextError(
                "provider", f"ocr:{' or ocr:'.join(ENGINES)}{did_you_mean(engine, ENGINES)}", f"ocr:{engine}"
            )
        self.engine = engine
        self._run: Engine | None = None

    @property
    def id(self) -> str:
        """Return ``ocr``, with the engine where it is not the usual one."""
        return "ocr" if self.engine == ENGINES[0] else f"ocr:{self.engine}"

    def prepare(self) -> None:
        """Load the engine.

        Raises:
            TextError: If it is not installed.
        """
        self._loaded()

    def _loaded(self) -> Engine:
        """Return the engine, loaded when it is first needed."""
        if self._run is None:
            self._run = {"rapidocr": _rapidocr, "cnocr": _cnocr}[self.engine]()
        return self._run

    def read(self, image: np.ndarray) -> dict[str, float]:
        """Return the numbers on a picture by their names.

        Args:
            image: RGB uint8 [H, W, 3].

        Raises:
            DataError: If nothing is read that looks like names with numbers.
            TextError: If the engine is not installed.
        """
        lines = lines_of(self._loaded()(np.ascontiguousarray(image[..., ::-1])))  # both engines take BGR
        record = parse(lines)
        if not record:
            raise DataError(self.id, "lines such as 'mu_x: 1.5'", " / ".join(lines)[:SHOWN] or "no text at all")
        return record


def lines_of(pieces: Sequence[Piece]) -> list[str]:
    """Return the lines that pieces of text stand in, from top to bottom, each from left to right."""
    lines: list[list[tuple[float, str]]] = []
    middle, height = 0.0, 0.0
    for text, corners in sorted(pieces, key=lambda piece: float(piece[1][:, 1].mean())):
        y = float(corners[:, 1].mean())
        if not lines or y - middle > SAME_LINE * height:
            lines.append([])
            middle, height = y, float(np.ptp(corners[:, 1]))
        lines[-1].append((float(corners[:, 0].min()), text))
    return [" ".join(text for _, text in sorted(line)) for line in lines]


def parse(lines: Sequence[str]) -> dict[str, float]:
    """Return the numbers in lines of text by their names, which are written small and with ``_`` for blanks.

    What OCR does to such lines is forgiven: blanks and colons that are missing, doubled or dots, other minus signs, the
    letter O in a number, a comma as decimal point. Of a name that comes twice the first number counts.
    """
    record: dict[str, float] = {}
    for line in lines:
        text = " ".join(unicodedata.normalize("NFKC", line).translate(_MINUS).split())
        for name, number in _NAMED.findall(text) or _BARE.findall(text):
            value = number.replace(" ", "").replace(",", ".").replace("o", "0").replace("O", "0")
            record.setdefault("_".join(name.lower().split()), float(value))
    return record


def _rapidocr() -> Engine:
    """Return RapidOCR, which works on the processor and fetches nothing."""
    # It warns of pictures without text, which we refuse.
    engine = _made("rapidocr", "'ultra-dsmoe[ocr,edge]'", lambda m: m.RapidOCR(params={"Global.log_level": "error"}))

    def run(image: np.ndarray) -> Sequence[Piece]:
        found = engine(image)
        return [] if found.txts is None else list(zip(found.txts, np.asarray(found.boxes), strict=True))

    return run


def _cnocr() -> Engine:
    """Return CnOCR, which may fetch its networks when it is first used."""
    engine = _made("cnocr", "cnocr", lambda module: module.CnOcr())

    def run(image: np.ndarray) -> Sequence[Piece]:
        return [(str(piece["text"]), np.asarray(piece["position"])) for piece in engine.ocr(image)]

    return run


def _made(name: str, packages: str, make: Callable[[Any], Any]) -> Any:
    """Import an OCR package and make its engine.

    Raises:
        TextError: If it, or what it runs on, is not installed.
    """
    from importlib import import_module

    try:
        return make(import_module(name))
    except ImportError as e:
        raise TextError("provider ocr", f"{name} to be installed (pip install {packages})", str(e)) from e
