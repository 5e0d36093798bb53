"""The text side of a network: vectors, rewording, folding, taxonomy."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from net_checks import NAMES, described, hub, run
from torch import Tensor
from ultralytics import YOLO
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.text_side import TextState
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics
from ultra_dsmoe.text import Taxonomy, TextBank, encode_bank

Build = Callable[..., DSMoEModel]
Batch = Callable[..., dict[str, Tensor]]


def test_rewording_a_class_changes_its_vector_alone(build: Build) -> None:
    net = described(build(nc=3))
    (row,) = net.blocks(TextSemantics)
    before = row.bank.clone()
    net.set_prompts({"scratch": "a long thin bright line"})
    changed = (row.bank != before).any(1).tolist()
    assert changed == [True, False, False]
    assert net.text_info["prompts"][0] == ["a photo of a scratch defect: a long thin bright line"]
    assert net.text_info["prompts"][1] == ["a photo of a dent defect: a round hollow"]
    whole = encode_bank(NAMES, {"scratch": "a long thin bright line", "dent": ["a round hollow"]}, encoder="hash")
    np.testing.assert_allclose(row.bank.numpy(), whole.vectors, atol=1e-6)
    assert net.text_info["key"] == whole.key


def test_rewording_refolds_a_fused_net(build: Build) -> None:
    net = described(build(nc=3))
    plain = deepcopy(net)
    images = torch.rand(1, 3, 64, 64)
    net.fuse(verbose=False)
    before = hub(net, images)
    for each in (net, plain):
        each.set_prompts({"scratch": "a long thin bright line"})
    after = hub(net, images)
    assert (after - before).abs().max() > 1e-3, "the folded constants are those of the old text"
    torch.testing.assert_close(after, hub(plain, images), rtol=0, atol=1e-4)


def test_a_net_that_attends_over_descriptions(tmp_path: Path, batch: Batch) -> None:
    """Rewording with another number of them works, and so does a checkpoint; folded and exported it is constant."""
    cfg = yaml_model_load("dsmoe-n.yaml")
    cfg["dsmoe"]["descriptions"] = "attended"
    net = DSMoEModel(cfg, nc=3, verbose=False)
    net.names = NAMES
    net.set_text(encode_bank(NAMES, {"dent": ["a round hollow", "a pit"]}, encoder="hash", each=True))
    (row,) = net.blocks(TextSemantics)
    assert row.bank.shape == (3, 2, 1536)
    images, plain = torch.rand(1, 3, 64, 64), deepcopy(net)
    before = hub(net, images)
    torch.save({"model": net, "train_args": {"task": "detect"}}, tmp_path / "net.pt")
    loaded = YOLO(tmp_path / "net.pt").model.float()
    assert torch.equal(hub(loaded, images), before)
    net.fuse(verbose=False)
    for each in (net, plain, loaded):
        each.set_prompts({"scratch": ["a line", "a long line", "a bright line"]})
        assert each.blocks(TextSemantics)[0].bank.shape == (3, 3, 1536)
    assert net.text_bank().each.shape == (3, 3, 1536)
    assert net.text_info["prompts"][1][1] == "a photo of a dent defect: a pit"
    assert (hub(plain, images) - before).abs().max() > 1e-3
    torch.testing.assert_close(hub(net, images), hub(plain, images), rtol=0, atol=1e-4)
    pooling = described(DSMoEModel("dsmoe-n.yaml", nc=3, verbose=False))
    pooling.write_text(plain.text_state())
    np.testing.assert_allclose(pooling.blocks(TextSemantics)[0].bank.numpy(), plain.text_bank().vectors, atol=1e-6)


def test_weights_of_other_text_leave_a_nets_own_alone(build: Build) -> None:
    """Vectors and what is known of them never part: neither the old vectors under the new words nor the reverse."""
    source, net = described(build(nc=3)), build(nc=3)
    net.names = NAMES
    net.set_text(encode_bank(NAMES, {"scratch": ["a bright line"]}, encoder="hash"))
    own = net.text_state()
    assert not torch.equal(own.vectors, source.text_state().vectors)
    net.load(source, verbose=False)
    assert torch.equal(net.text_state().vectors, own.vectors)
    assert net.text_info == own.info
    (row,), (other,) = net.blocks(TextSemantics), source.blocks(TextSemantics)
    assert torch.equal(row.project.weight, other.project.weight)


@pytest.mark.parametrize("width", [1536, 32])
def test_a_net_without_text_takes_over_that_of_the_weights(width: int, build: Build) -> None:
    source, net = build(nc=3), build(nc=3)
    source.names = NAMES
    vectors = np.eye(3, width, dtype=np.float32)
    source.set_text(TextBank(tuple(NAMES.values()), (("a",), ("b",), ("c",)), f"test:{width}", vectors, "0"))
    net.load(source, verbose=False)
    assert net.text_info == source.text_info
    assert net.text_info is not source.text_info
    torch.testing.assert_close(net.text_state().vectors, torch.from_numpy(vectors))
    assert torch.equal(net.blocks(TextSemantics)[0].project.weight, source.blocks(TextSemantics)[0].project.weight)
    more = build(nc=4)
    more.load(source, verbose=False)
    assert more.text_info is None


def test_the_bank_of_a_net_is_the_one_that_was_set(build: Build) -> None:
    net = build(nc=3)
    assert net.text_bank() is None
    net.names = NAMES
    bank = encode_bank(NAMES, {"dent": ["a round hollow", "a pit"]}, encoder="hash")
    net.set_text(bank)
    assert net.text_bank() == bank
    np.testing.assert_array_equal(net.text_bank().vectors, bank.vectors)
    state = net.text_state()
    net.set_prompts({"scratch": "a line"})
    net.write_text(state)
    assert net.text_bank() == bank


def test_equal_text_folds_nothing_anew(build: Build) -> None:
    net = described(build(nc=3)).fuse(verbose=False)
    (row,) = net.blocks(TextSemantics)
    bank, folded = row.bank, row._folded_0
    net.write_text(net.text_state())
    assert row.bank is bank
    assert row._folded_0 is folded
    net.write_text(TextState(row.bank.flip(0), net.text_info))
    assert row._folded_0 is not folded


def test_another_encoder_renews_the_projection(build: Build) -> None:
    net = build(nc=3)
    vectors = np.eye(3, 32, dtype=np.float32)
    net.set_text(TextBank(("scratch", "dent", "stain"), (("a",), ("b",), ("c",)), "test:32", vectors, "0"))
    assert net.blocks(TextSemantics)[0].project.in_features == 32
    assert run(net, torch.rand(1, 3, 64, 64)).shape == (1, 7, 84)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"scrach": "x"}, r"prompts: expected a class of this data set: .*'scrach' \(did you mean 'scratch'\?\)"),
        ({"scratch": " "}, r"prompts\[scratch\]: expected texts that are not empty"),
        ({"scratch": []}, r"prompts\[scratch\]: expected a text or a list of at least one text, got \[\]"),
        (["scratch"], r"prompts: expected a mapping"),
    ],
)
def test_wrong_prompts_change_nothing(prompts: Any, message: str, build: Build) -> None:
    net = described(build(nc=3))
    before, info = net.blocks(TextSemantics)[0].bank.clone(), deepcopy(net.text_info)
    with pytest.raises(TextError, match=message):
        net.set_prompts(prompts)
    assert torch.equal(net.blocks(TextSemantics)[0].bank, before)
    assert net.text_info == info


def test_text_needs_one_vector_per_class(build: Build) -> None:
    with pytest.raises(TextError, match=r"text vectors: expected shape \(6, d\), .*, got \(3, 1536\)"):
        build(nc=6).set_text(encode_bank(NAMES, encoder="hash"))


def test_text_must_be_finite(build: Build) -> None:
    vectors = np.ones((3, 8), np.float32)
    vectors[1, 2] = np.nan
    with pytest.raises(TextError, match=r"text vectors: expected finite vectors, got NaN"):
        TextBank(tuple(NAMES.values()), (("a",), ("b",), ("c",)), "test", vectors, "0")
    with pytest.raises(TextError, match="text vectors: expected finite numbers, got NaN or infinity"):
        build(nc=3).blocks(TextSemantics)[0].set_bank(torch.from_numpy(vectors))


def test_a_net_without_text_has_no_prompts() -> None:
    cfg = yaml_model_load("dsmoe-n.yaml")
    cfg["dsmoe"]["text"] = False
    net = DSMoEModel(cfg, nc=3, verbose=False)
    net.names = NAMES
    with pytest.raises(TextError, match="prompts: expected a model with text"):
        net.set_prompts({"scratch": "x"})
    assert run(net, torch.rand(1, 3, 64, 64)).shape == (1, 7, 84)


def test_taxonomy_sets_radii_and_starts_the_hierarchy_loss(build: Build, batch: Batch) -> None:
    net = build(nc=3)
    (block,) = net.blocks(HyperbolicFusion)
    taxonomy = Taxonomy.parse(NAMES, {"surface": ["scratch", "stain"], "fault": ["surface", "dent"]})
    net.set_taxonomy(taxonomy)
    assert block.members.tolist() == [[1, 0, 1], [1, 1, 1]]
    surface, fault = block.parent_radius.tolist()
    scratch, dent, stain = block.radius.flatten().tolist()
    assert fault < surface < min(scratch, stain), "parents lie nearer the origin than their children"
    assert fault < dent
    net.train()(batch(nc=3)["img"])
    assert block.aux["hier"] >= 0
    net.init_criterion()(net(batch(nc=3)["img"]), batch(nc=3))[0][4].backward()
    assert block.parent_radius.grad is not None
