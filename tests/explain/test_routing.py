"""The routing map: counts by hand, information by hand, a planted gate through the whole command, the picture."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ultra_dsmoe import commands
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.explain import routing_map as command
from ultra_dsmoe.explain.plots.routing_map import draw, sentence
from ultra_dsmoe.explain.record import blocks, recording
from ultra_dsmoe.explain.routing import CLEAN, kind, mutual_information, routing_map
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

WEIGHTS = np.array([[0.75, 0.25, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0]])
LABELS = [np.array([0.0, 0.0]), np.array([0.0, 2.0]), np.array([2.0]), np.zeros(0)]


def by_hand(**changes: Any) -> Any:
    return routing_map(
        WEIGHTS, LABELS, ["scratch", "pit", "hole"], **{"text": True, "shuffles": 50, "seed": 0, **changes}
    )


def test_counts_by_hand() -> None:
    routes = by_hand()
    assert routes.rows == ["scratch", "hole", CLEAN]  # no image shows a pit
    assert routes.present.sum(0).tolist() == [2, 2, 1]
    np.testing.assert_allclose(routes.usage, [0.75, 0.75, 0.5, 0])
    np.testing.assert_allclose(routes.share, [[1, 0.5, 0.5, 0], [0.5, 0.5, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_allclose(routes.mean_weight, [[0.625, 0.125, 0.25, 0], [0.25, 0.25, 0.5, 0], [0.5, 0.5, 0, 0]])


def test_experts_carry_the_text_of_their_class() -> None:
    routes = routing_map(np.eye(8)[:4], LABELS, ["scratch", "pit", "hole"], text=True, shuffles=20, seed=0)
    assert routes.own_class.tolist() == [-1, -1, 0, -1, 1, 0, -1, 1]  # pit is not shown
    assert set(by_hand(text=False).own_class) == {-1}
    assert [kind(n) for n in (0, 1, 2, 31)] == ["local", "global", "cross-modal", "cross-modal"]


def test_information_by_hand() -> None:
    eye, swap = np.eye(4, dtype=bool), np.eye(4, dtype=bool)[[1, 0, 3, 2]]
    assert mutual_information(eye, swap) == pytest.approx(2)  # four classes, each its own expert
    assert mutual_information(np.repeat(eye, 4, 0), np.tile(eye, (4, 1))) == pytest.approx(0, abs=1e-12)
    # Image 1: class a, experts 0 and 1; image 2: class b, expert 1. Joint a0 1/4, a1 1/4, b1 1/2.
    expected = 0.25 * np.log2(0.25 / (0.5 * 0.25)) + 0.25 * np.log2(0.25 / (0.5 * 0.75)) + 0.5 * np.log2(0.5 / 0.375)
    got = mutual_information(np.array([[1, 0], [0, 1]], bool), np.array([[1, 1], [0, 1]], bool))
    assert got == pytest.approx(expected)
    # An image of two classes counts half for each: joint a0 1/4, b0 1/4, b1 1/2 mirrors the case above.
    got = mutual_information(np.array([[1, 1], [0, 1]], bool), np.array([[1, 0], [0, 1]], bool))
    assert got == pytest.approx(expected)


def planted(depends: Any, images: int = 60, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, images)
    chosen = classes if depends else rng.integers(0, 3, images)
    return routing_map(
        np.eye(4)[chosen], [np.array([c]) for c in classes], list("abc"), text=False, shuffles=200, seed=0
    )


def test_dependence_is_told_from_chance() -> None:
    routes = planted(True)
    assert routes.bits == pytest.approx(routes.class_bits)
    assert routes.bits > 10 * routes.shuffled.mean()
    assert routes.depends_on_class
    assert sentence(routes).startswith("Experts depend on the defect class: one expert tells 1.5")
    flags = [planted(False, seed=s).depends_on_class for s in range(20)]
    assert sum(flags) <= 4  # one in twenty by construction
    assert sentence(planted(False, seed=flags.index(False))).startswith("No sign that experts depend")


def test_shuffles_repeat_by_seed() -> None:
    assert len(by_hand().shuffled) == 50
    np.testing.assert_array_equal(by_hand().shuffled, by_hand().shuffled)
    assert not np.array_equal(by_hand().shuffled, by_hand(seed=1).shuffled)


def test_picture_shows_a_dark_cell_where_the_share_is_high() -> None:
    dark, light = draw(planted(True), "a title"), draw(planted(False), "a title")
    pixels = [cv2.imdecode(np.frombuffer(p, np.uint8), cv2.IMREAD_COLOR) for p in (dark, light)]
    assert pixels[0].shape == pixels[1].shape
    assert min(pixels[0].shape[:2]) > 500
    full = np.array([107, 48, 8])  # BGR of the colour map's end, 100 %
    counts = [(np.abs(p.astype(int) - full).max(-1) < 3).sum() for p in pixels]
    assert counts[0] > 3 * counts[1] > 0  # the colour bar has it in both


def test_table_and_images_hold_the_numbers() -> None:
    routes = by_hand()
    rows = list(csv.DictReader(command.table(routes).splitlines()))
    assert len(rows) == 3 * 4
    first, last = rows[0], rows[6]
    assert first["kind"] == "local"
    assert (first["class"], first["images"], float(first["chosen_share"]), float(first["mean_weight"])) == (
        *("scratch", "2"),
        *(1, 0.625),
    )
    assert (last["class"], last["expert"], last["kind"], last["text_class"]) == ("hole", "2", "cross-modal", "scratch")
    lines = list(csv.DictReader(command.per_image(routes, ["a.png", "b.png", "c.png", "d.png"]).splitlines()))
    assert lines[1] == {"image": "b.png", "classes": "scratch; hole", "experts": "0 2", "weights": "0.5000 0.5000"}
    assert lines[3]["classes"] == CLEAN


def test_planted_gate_is_counted_image_by_image(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation({"model": str(checkpoint), "device": "cpu", "batch": 3})
    (gate,) = blocks(evaluation.net, ExpertGate)
    order, seen = np.array([[4, 7], [4, 9], [0, 7], [31, 1]]), [0]

    def plant(m: Any, args: Any, out: Any) -> Any:
        rows = torch.from_numpy(order[seen[0] : seen[0] + len(out)])
        seen[0] += len(out)
        return torch.zeros_like(out).scatter(1, rows, 0.5)

    @contextmanager
    def from_the_first_real_image(net: Any, record: Any) -> Iterator[None]:
        seen[0] = 0  # the host has sent images of zeros through the network, to warm up and to count operations
        with recording(net, record):
            yield

    monkeypatch.setattr(command, "recording", from_the_first_real_image)
    gate.register_forward_hook(plant)
    maps, files = command.collect(evaluation, shuffles=20)
    (routes,) = maps.values()
    assert list(maps) == [""]
    assert seen[0] == len(files) == 4
    expected = np.zeros((4, 32), bool)
    np.put_along_axis(expected, order, True, 1)
    np.testing.assert_array_equal(routes.chosen, expected)
    labels = [np.loadtxt(f.replace("images", "labels").rsplit(".", 1)[0] + ".txt", ndmin=2)[:, 0] for f in files]
    for row, shown in zip(labels, routes.present, strict=True):
        assert [routes.rows[i] for i in np.flatnonzero(shown)] == [evaluation.names[int(c)] for c in np.unique(row)]


def test_whole_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "map"
    assert commands.routing.COMMAND.main([str(checkpoint), "device=cpu", f"out={out}", "shuffles=20"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["routing_images.csv", "routing_map.csv", "routing_map.png"]
    rows = list(csv.DictReader((out / "routing_images.csv").open()))
    assert len(rows) == 4
    assert all(len(r["experts"].split()) == 5 for r in rows)
    assert sum(float(w) for w in rows[0]["weights"].split()) == pytest.approx(1, abs=1e-3)
    assert "20 shuffles" in capsys.readouterr().out


def test_several_gates_get_a_map_each(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation({"model": str(checkpoint), "device": "cpu"})
    evaluation.net.model[18].gate = ExpertGate(evaluation.net.model[18].bn.num_features, experts=4).eval()
    (row, own) = blocks(evaluation.net, ExpertGate)
    assert command.block_name(evaluation.net, row) == "row17"
    assert command.block_name(evaluation.net, own) == "row18_gate"


def test_bad_input_is_named(tmp_path: Path, tiny_boards: Path) -> None:
    assert commands.routing.COMMAND.main(["help"]) == 0
    with pytest.raises(ConfigError, match=r"shufles: expected .*did you mean 'shuffles'"):
        commands.routing.COMMAND.main(["best.pt", "shufles=3"])
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "CBAM", []]]
    net = DSMoEModel({"nc": 6, "backbone": rows, "head": [[[2], 1, "Detect", ["nc"]]]}, verbose=False)
    torch.save({"model": net, "ema": None, "train_args": {"task": "detect"}}, tmp_path / "gateless.pt")
    with pytest.raises(ConfigError, match="model: expected a network with an ExpertGate"):
        commands.routing.COMMAND.main([str(tmp_path / "gateless.pt"), f"data={tiny_boards}", "device=cpu"])
    assert [p.name for p in tmp_path.iterdir()] == ["gateless.pt"]
