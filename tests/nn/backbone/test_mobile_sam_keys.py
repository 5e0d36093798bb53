"""Names of MobileSAM's tensors and what a checkpoint fills, on a stand-in of ten tensors; the net itself elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from net_checks import Touch
from torch import Tensor, nn
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.nn.backbone.mobile_sam_keys import (
    PREFIX,
    FitReport,
    is_mobile_sam_checkpoint,
    load_mobile_sam,
    timm_key,
)

# original name -> timm's, both written out
NAMES = {
    "patch_embed.seq.0.c.weight": "patch_embed.conv1.conv.weight",
    "patch_embed.seq.2.bn.bias": "patch_embed.conv2.bn.bias",
    "layers.0.blocks.1.conv1.c.weight": "stages.0.blocks.1.conv1.conv.weight",
    "layers.0.blocks.1.conv2.bn.weight": "stages.0.blocks.1.conv2.bn.weight",
    "layers.0.downsample.conv3.c.weight": "stages.1.downsample.conv3.conv.weight",
    "layers.1.downsample.conv1.bn.running_mean": "stages.2.downsample.conv1.bn.running_mean",
    "layers.10.blocks.12.attn.qkv.weight": "stages.10.blocks.12.attn.qkv.weight",
    "layers.2.blocks.3.attn.attention_biases": "stages.2.blocks.3.attn.attention_biases",
    "layers.3.blocks.0.mlp.norm.weight": "stages.3.blocks.0.mlp.norm.weight",
    "layers.3.blocks.0.local_conv.bn.running_var": "stages.3.blocks.0.local_conv.bn.running_var",
}


class Encoder(nn.Module):
    """Ten tensors under timm's names."""

    def __init__(self) -> None:
        super().__init__()
        for key in NAMES.values():
            module: nn.Module = self
            *path, leaf = key.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]  # type: ignore[assignment]
            module.register_buffer(leaf, torch.zeros(2))


def state(*left_out: str, **other: Tensor) -> dict[str, Tensor]:
    given = {f"{PREFIX}{n}": torch.full((2,), i + 1.0) for i, n in enumerate(NAMES) if n not in left_out}
    return given | {"mask_decoder.iou_token.weight": torch.ones(2)} | other


@pytest.mark.parametrize(("name", "key"), NAMES.items())
def test_names(name: str, key: str) -> None:
    assert timm_key(name) == key


@pytest.mark.parametrize(
    "name",
    [
        "patch_embed.seq.1.c.weight",
        "patch_embed.seq.0.x.weight",
        "layers.0.downsample.conv4.c.weight",
        "layers.0.downsample.norm.weight",
        "layers.0.blocks.0.conv1.act.weight",
        "layers.0.blocks.0.attn.attention_bias_idxs",
        "layers.x.blocks.0.mlp.fc1.weight",
        "xlayers.0.blocks.0.mlp.fc1.weight",
        "neck.0.weight",
        "norm_head.weight",
        "",
    ],
)
def test_names_without_a_counterpart(name: str) -> None:
    assert timm_key(name) is None


def test_every_tensor_lands_in_its_place() -> None:
    net = Encoder()
    assert load_mobile_sam(net, state()) == FitReport(10, 10, ())
    filled = {k: v.tolist() for k, v in net.state_dict().items()}
    assert filled == {key: [i + 1.0] * 2 for i, key in enumerate(NAMES.values())}


def test_nine_of_ten_are_enough_and_eight_are_not() -> None:
    first, second = list(NAMES)[:2]
    net = Encoder()
    report = load_mobile_sam(net, {"model": state(first)})
    assert report == FitReport(9, 10, (NAMES[first],))
    assert str(report) == "9 of 10 tensors fit"
    assert net.state_dict()[NAMES[first]].tolist() == [0, 0]
    net = Encoder()
    with pytest.raises(WeightsError, match=r"least 90% fit, got state dict, of which 8 of 10 tensors fit$"):
        load_mobile_sam(net, state(first, second))
    assert not any(v.any() for v in net.state_dict().values()), "unchanged"


def test_other_shapes_and_what_is_no_tensor_do_not_fit() -> None:
    first, second = list(NAMES)[:2]
    wide = {f"{PREFIX}{first}": torch.ones(3)}
    assert load_mobile_sam(Encoder(), state(**wide)).left == (NAMES[first],)
    with pytest.raises(WeightsError, match="8 of 10"):
        load_mobile_sam(Encoder(), state(**wide, **{f"{PREFIX}{second}": [1.0, 2.0]}))  # type: ignore[arg-type]


def test_names_need_the_encoders_prefix() -> None:
    bare = {name.removeprefix(PREFIX): value for name, value in state().items()}
    with pytest.raises(WeightsError, match="0 of 10"):
        load_mobile_sam(Encoder(), bare)
    assert not is_mobile_sam_checkpoint(bare)
    assert is_mobile_sam_checkpoint(state())
    assert is_mobile_sam_checkpoint({"model": state(), "epoch": 3})
    assert not is_mobile_sam_checkpoint({0: torch.zeros(1)})  # type: ignore[dict-item]


def test_what_was_filled_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level("INFO", LOGGER.name):
        load_mobile_sam(Encoder(), state())
    assert "MobileSAM encoder: 10 of 10 tensors fit from state dict" in caplog.messages


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    torch.save(state() | {"x": Touch(tmp_path / "touched")}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match="expected a readable file of tensors"):
        load_mobile_sam(Encoder(), tmp_path / "bad.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("source", [3, [1], None])
def test_no_path_and_no_state_dict(source: object) -> None:
    with pytest.raises(WeightsError, match=r"^pretrained: expected a path or a state dict, got \w+$"):
        load_mobile_sam(Encoder(), source)  # type: ignore[arg-type]


def test_a_file_is_named_in_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mobile_sam.pt"
    torch.save(state(), path)
    assert load_mobile_sam(Encoder(), path).matched == load_mobile_sam(Encoder(), str(path)).matched == 10
    assert is_mobile_sam_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(WeightsError, match=r"^pretrained: .*got .*mobile_sam\.pt, of which 0 of 10 tensors fit$"):
        load_mobile_sam(Encoder(), path)
    path.write_text("text")
    with pytest.raises(
        WeightsError, match=r"^pretrained: expected a readable file of tensors, got .*mobile_sam\.pt \("
    ):
        load_mobile_sam(Encoder(), path)
    with pytest.raises(WeightsError, match=r"got .*gone\.pt, which does not exist$"):
        load_mobile_sam(Encoder(), tmp_path / "gone.pt")
