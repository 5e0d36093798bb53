"""Records off pictures: lines from pieces, numbers from lines, and the error rate of the engine that is installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hit_pictures import record_of, scatter
from PIL import Image, ImageDraw, ImageFont

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.providers.ocr import OcrReader, lines_of, parse

WHITE = np.full((20, 40, 3), 255, np.uint8)
CARDS, SIZES = 3, (11, 14, 17)  # font sizes in pixels
MOST_WRONG = 0.03  # of the numbers; of 143 at 10 to 22 pixels none was, of 13 at 9 pixels 3


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ("mu_x: -0.13", {"mu_x": -0.13}),
        ("mu_x:-0.13", {"mu_x": -0.13}),
        ("mu_x -0.13", {"mu_x": -0.13}),
        ("mu_y. 2.05", {"mu_y": 2.05}),
        ("mu_x-0.78", {"mu_x": -0.78}),
        ("Mean X = − 1,5", {"mean_x": -1.5}),
        ("sd_x：1.96", {"sd_x": 1.96}),
        ("r0_2:88", {"r0_2": 88}),
        ("r10_12: 0", {"r10_12": 0}),
        ("r10_12 7", {"r10_12": 7}),
        ("r0 2: 88", {"r0_2": 88}),
        ("hits: 4O2", {"hits": 402}),
        ("hits: +7 mm", {"hits": 7}),
        ("mu_x: 1.5  mu_y: 2.5", {"mu_x": 1.5, "mu_y": 2.5}),
        ("mu_x 1.5 mu_y 2.5", {"mu_x": 1.5, "mu_y": 2.5}),
        ("hits: 1 hits: 2", {"hits": 1}),
        ("RECORD OF HITS", {}),
        ("12:30", {}),
        ("version: 1.2.3", {}),
        ("lot: 12ab", {}),
        ("hits of today", {}),
        ("", {}),
    ],
)
def test_what_a_line_says(line: str, record: dict[str, float]) -> None:
    assert parse([line]) == record


def test_pieces_of_a_line_are_put_together() -> None:
    def piece(text: str, x: float, y: float) -> tuple[str, np.ndarray]:
        return text, np.array([[x, y], [x + 30, y], [x + 30, y + 10], [x, y + 10]])

    pieces = [piece("2.5", 100, 32), piece("1.5", 100, 2), piece("mu_x:", 0, 0), piece("mu_y:", 0, 30)]
    assert lines_of(pieces) == ["mu_x: 1.5", "mu_y: 2.5"]
    assert lines_of([]) == []


def engine(*lines: str) -> type:
    """Return a stand-in for RapidOCR that sees the same lines on every picture."""

    class RapidOCR:
        def __init__(self, params: dict[str, str]) -> None:
            self.seen: list[np.ndarray] = []

        def __call__(self, image: np.ndarray) -> SimpleNamespace:
            self.seen.append(image)
            corners = [[[0, 20 * i], [50, 20 * i], [50, 20 * i + 9], [0, 20 * i + 9]] for i in range(len(lines))]
            return SimpleNamespace(txts=lines or None, boxes=np.array(corners) if lines else None)

    return RapidOCR


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def test_rapidocr_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "rapidocr", RapidOCR=engine("mu_x: 1", "hits: 30"))
    assert OcrReader().read(WHITE) == {"mu_x": 1, "hits": 30}


def test_cnocr_is_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class CnOcr:
        def ocr(self, image: np.ndarray) -> list[dict[str, object]]:
            assert image[0, 0].tolist() == [3, 2, 1], "blue first"
            return [{"text": "hits: 7", "score": 0.9, "position": np.array([[0, 0], [9, 0], [9, 9], [0, 9]])}]

    install(monkeypatch, "cnocr", CnOcr=CnOcr)
    assert OcrReader("cnocr").read(np.full((4, 4, 3), (1, 2, 3), np.uint8)) == {"hits": 7}


@pytest.mark.parametrize(("lines", "got"), [((), "no text at all"), (("RECORD", "of hits"), "RECORD / of hits")])
def test_nothing_read_is_one_line(monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], got: str) -> None:
    install(monkeypatch, "rapidocr", RapidOCR=engine(*lines))
    with pytest.raises(DataError, match=rf"^ocr: expected lines such as 'mu_x: 1.5', got {got}$"):
        OcrReader().read(WHITE)


@pytest.mark.parametrize(("name", "how"), [("rapidocr", r"ultra-dsmoe\[ocr,edge\]"), ("cnocr", "cnocr")])
def test_an_engine_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, how: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TextError, match=rf"^provider ocr: expected {name} to be installed \(pip install '?{how}'?\)"):
        OcrReader(name).read(WHITE)


def card(record: dict[str, float], size: int) -> np.ndarray:
    """Return a picture of a record, a line each, as a machine's screen shows it."""
    image = Image.new("RGB", (300, 20 + 24 * len(record)), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=size)
    for i, (name, value) in enumerate(record.items()):
        pen.text((12, 8 + 24 * i), f"{name}: {value:g}", font=font, fill=(30, 30, 30))
    return np.array(image)


def test_error_rate_on_rendered_records() -> None:
    pytest.importorskip("rapidocr", reason="rapidocr is not installed (extra ocr)")
    reader, wrong, total = OcrReader(), [], 0
    for seed, size in zip(range(CARDS), SIZES, strict=True):
        points = scatter(seed, (1.5 * seed - 2, -0.7 * seed))
        record = {name: round(value, 2) for name, value in record_of(points).items()}
        read = reader.read(card(record, size))
        wrong += [
            f"{size} px {name}: {value} {read.get(name)}" for name, value in record.items() if read.get(name) != value
        ]
        wrong += [f"{size} px {name} too much" for name in read.keys() - record.keys()]
        total += len(record)
    assert len(wrong) <= MOST_WRONG * total, wrong
    with pytest.raises(DataError, match=r"^ocr: expected lines such as .*, got no text at all$"):
        reader.read(WHITE)
