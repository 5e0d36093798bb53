"""The Poincaré disk: radii kept, geodesics and distances by laws, angles fitted, names that do not overlap."""

from __future__ import annotations

from typing import Any

import geoopt
import numpy as np
import pytest
import torch

from ultra_dsmoe.explain.plots.poincare_disk import draw, figure_of, found, heights, kept, sides
from ultra_dsmoe.explain.poincare_anchors import knows, read_disk, read_taxonomy
from ultra_dsmoe.explain.poincare_disk import Disk, distance, fit_angles, geodesic
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.ops import poincare
from ultra_dsmoe.text import Taxonomy

NAMES = ["pit", "scratch", "patch", "spur"]
GROUPS = {"marks": ["pit", "scratch"], "areas": ["patch"], "all": ["marks", "areas"]}
WIDTH = 32


def fusion_of(taxonomy: Any, classes: Any, seed: int = 0) -> Any:
    """Return a block as trained with a taxonomy, its text folded."""
    torch.manual_seed(seed)
    block = HyperbolicFusion(16, WIDTH, classes).eval()
    if taxonomy is not None:
        radii = torch.atanh(torch.from_numpy(taxonomy.embed()).norm(dim=1).clamp_max(0.96))
        members = torch.from_numpy(taxonomy.members.astype("float32"))
        block.set_taxonomy(members, torch.tensor(taxonomy.edges).view(-1, 2), radii)
    block.fold_text(torch.randn(classes, WIDTH))
    return block


def random_disk(classes: Any, groups: Any, seed: int = 0) -> Any:
    names = [f"a_long_defect_name_{i}" for i in range(classes)]
    taxonomy = None
    if groups:
        taxonomy = Taxonomy.parse(names, {f"group {g}": names[g::groups] for g in range(groups)})
    return read_disk(fusion_of(taxonomy, classes, seed), names, taxonomy)


def flat_disk(norms: Any, angles: Any, classes: Any = None, parents: Any = None, ball: Any = None) -> Disk:
    points = np.tanh(norms) * np.exp(1j * np.asarray(angles))
    between = distance(points[:, None], points[None]) if ball is None else ball
    parents = np.full(len(norms), -1) if parents is None else np.array(parents)
    names = [f"n{i}" for i in range(len(norms))]
    return Disk(names, parents, classes or len(norms), 2, np.asarray(norms), between, np.asarray(angles))


def test_distance_is_that_of_the_ball() -> None:
    rng = np.random.default_rng(0)
    z, w = ((rng.uniform(-0.65, 0.65, 50) + 1j * rng.uniform(-0.65, 0.65, 50)) for _ in range(2))
    pairs = [torch.from_numpy(np.stack([p.real, p.imag], 1)) for p in (z, w)]
    np.testing.assert_allclose(distance(z, w), geoopt.PoincareBall(c=1.0).dist(*pairs).numpy(), rtol=1e-9)


@pytest.mark.parametrize(("z", "w"), [(0.3 + 0.1j, -0.2 + 0.8j), (0.9j, -0.9 + 0.1j), (0.1, 0.1), (0, 0.5), (0.2, 0.8)])
def test_geodesic_is_the_shortest_way(z: Any, w: Any) -> None:
    way = geodesic(z, w, 31)
    np.testing.assert_allclose(way[[0, -1]], [z, w], atol=1e-12)
    # On a shortest way, and only there, distances add up; equal steps.
    np.testing.assert_allclose(distance(z, way) + distance(way, np.array(w)), distance(z, w), atol=1e-9)
    np.testing.assert_allclose(distance(way[:-1], way[1:]), distance(z, w) / 30, atol=1e-9)


def test_geodesic_is_an_arc_that_meets_the_boundary_at_right_angles() -> None:
    z, w = 0.3 + 0.1j, -0.2 + 0.8j
    # |p - c|^2 = |c|^2 - 1 for a circle of centre c orthogonal to the unit circle: two points give c.
    rows = np.array([[p.real, p.imag] for p in (z, w)])
    centre = complex(*np.linalg.solve(rows, [(abs(p) ** 2 + 1) / 2 for p in (z, w)]))
    np.testing.assert_allclose(np.abs(geodesic(z, w) - centre), np.sqrt(abs(centre) ** 2 - 1), atol=1e-9)


def test_radii_are_kept_and_a_flat_configuration_is_found_again() -> None:
    rng = np.random.default_rng(3)
    norms, angles = rng.uniform(0.2, 1.8, 9), rng.uniform(0, 2 * np.pi, 9)
    true = flat_disk(norms, angles)
    disk = flat_disk(norms, fit_angles(norms, true.ball), ball=true.ball)
    np.testing.assert_allclose(distance(0, disk.points), 2 * norms)  # whatever the fit does
    assert disk.angles[0] == pytest.approx(np.pi / 2)  # the first at the top
    assert disk.stress < 0.01  # angles are whole degrees
    assert disk.rank_correlation > 0.99
    assert flat_disk(norms, rng.permutation(angles), ball=true.ball).stress > 0.2


def test_stress_and_rank_by_hand() -> None:
    ball = np.array([[0, 4, 2], [4, 0, 1], [2, 1, 0.0]])
    norms, angles = [0.5, 0.5, 1.0], [0, np.pi, np.pi]  # on one line: distances 2, 3 and 1
    disk = flat_disk(norms, angles, ball=ball)
    np.testing.assert_allclose(disk.pairs[1], [2, 3, 1])
    assert disk.stress == pytest.approx(np.sqrt((4 + 1 + 0) / (16 + 4 + 1)))
    assert disk.rank_correlation == pytest.approx(0.5)  # ranks 3, 2, 1 against 2, 3, 1
    assert "off by 49 % (stress)" in kept(disk)
    assert flat_disk(norms, angles, classes=2).rank_correlation is None  # groups do not count
    assert kept(flat_disk([0.5], [0])) == "Distances to the centre are exact"


def test_equidistant_points_are_not_passed_off_as_neighbours() -> None:
    ball = np.random.default_rng(0).uniform(3, 3.01, (12, 12))
    ball = (ball + ball.T) / 2
    norms = np.ones(12)
    disk = flat_disk(norms, fit_angles(norms, ball), ball=ball)
    assert disk.rank_correlation < 0.5
    assert kept(disk).endswith("do not read neighbourhoods from it")


def test_kinship_is_told_from_chance() -> None:
    parents = [8, 8, 8, 8, 9, 9, 9, 9, -1, -1]
    norms = np.array([1.0] * 8 + [0.4, 1.1])
    kin = flat_disk(norms, [0, 0.1, 0.2, 0.3, 3, 3.1, 3.2, 3.3, 0.1, 3.1], classes=8, parents=parents)
    near, far, chance = kin.kin()
    assert near < 0.7 * far
    assert chance < 0.1  # two of 70 ways to part eight classes are as good
    assert kin.ordered == 4  # the second group lies beyond its children
    assert found(kin).startswith("In the ball 4 of 8 children are farther out than their parent; classes of one")
    foreign = flat_disk(norms, [0, 3, 0.1, 3.1, 0.2, 3.2, 0.3, 3.3, 0.1, 3.1], classes=8, parents=parents)
    assert foreign.kin()[2] > 0.5
    assert "no sign that classes of one parent are nearer" in found(foreign)
    assert flat_disk(norms, norms).kin() is None


def test_anchors_and_groups_are_those_of_the_net() -> None:
    taxonomy = Taxonomy.parse(NAMES, GROUPS)
    fusion = fusion_of(taxonomy, len(NAMES))
    disk = read_disk(fusion, NAMES, taxonomy)
    assert disk.names == [*NAMES, "marks", "areas", "all"]
    assert disk.parents.tolist() == [4, 4, 5, -1, 6, 6, -1]
    assert (disk.num_classes, disk.dimensions) == (4, 16)
    radii = torch.cat([fusion.radius, fusion.parent_radius]).detach().numpy()
    np.testing.assert_allclose(np.abs(disk.points), np.tanh(radii), rtol=1e-5)
    nodes = poincare.exp0(fusion.nodes(fusion.constants(None)[0])[0].detach().double())
    expected = geoopt.PoincareBall(c=1.0).dist(nodes[:, None], nodes[None]).numpy()
    np.testing.assert_allclose(disk.ball, expected, atol=1e-3)  # two nodes may coincide: a group of one class


def test_groups_are_drawn_only_where_their_names_are_known() -> None:
    taxonomy = read_taxonomy({"names": dict(enumerate(NAMES)), "taxonomy": GROUPS})
    fusion = fusion_of(taxonomy, len(NAMES))
    other = Taxonomy.parse(NAMES, {"marks": ["pit", "patch"], "areas": ["scratch"], "all": ["marks", "areas"]})
    assert knows(fusion, taxonomy)
    assert not knows(fusion, other)
    assert not knows(fusion_of(None, len(NAMES)), taxonomy)
    assert read_taxonomy({"names": NAMES}) is None
    for unknown in (None, other):
        alone = read_disk(fusion, NAMES, unknown)
        assert alone.names == NAMES
        assert alone.edges == []
        assert found(alone) == "No taxonomy: classes alone."


@pytest.mark.parametrize(("classes", "groups"), [(6, 2), (10, 3), (20, 5), (20, 0), (30, 6), (1, 0)])
def test_names_are_all_there_and_do_not_overlap(classes: int, groups: int) -> None:
    disk = random_disk(classes, groups)
    figure = figure_of(disk, "A title")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    texts = [t for t in axes.texts if t.get_text() in disk.names]
    assert sorted(t.get_text() for t in texts) == sorted(disk.names)
    boxes = [t.get_window_extent() for t in (*texts, *figure.texts)]
    circle = np.abs(axes.transData.transform((1, 0)) - axes.transData.transform((0, 0))).max()
    centre = axes.transData.transform((0, 0))
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    for box in boxes[: len(texts)]:  # beside the disk, not on it
        nearest = np.clip(centre, [box.x0, box.y0], [box.x1, box.y1])
        assert np.hypot(*(nearest - centre)) > circle


def test_heights_keep_order_distance_and_room() -> None:
    wanted = np.array([-0.95, -0.94, 0.0, 0.9, 0.91, 0.92])
    placed = heights(wanted, 0.1)
    assert (np.diff(placed) >= 0.1 - 1e-12).all()
    assert placed.max() <= 1
    assert placed[2] == 0  # nothing presses on it
    points = np.exp(1j * np.linspace(0.1, 6, 7))
    left, right = sides(points)
    assert sorted([*left, *right]) == list(range(7))
    assert points[left].real.max() <= points[right].real.min()


def test_picture_is_a_png_with_the_colours_of_groups() -> None:
    import cv2

    picture = cv2.imdecode(np.frombuffer(draw(random_disk(6, 2), "A title"), np.uint8), cv2.IMREAD_COLOR)
    alone = cv2.imdecode(np.frombuffer(draw(random_disk(6, 0), "A title"), np.uint8), cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) > 700
    blue = np.array([0xB2, 0x72, 0x00])  # BGR of the first group
    assert (np.abs(picture.astype(int) - blue).max(-1) < 3).sum() > 500
    assert (np.abs(alone.astype(int) - blue).max(-1) < 3).sum() == 0
