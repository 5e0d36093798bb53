"""The MobileSAM encoder against the original TinyViT that the host ships, and its weight files."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from block_checks import LEGACY
from net_checks import Touch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ultra_dsmoe.errors import ConfigError, ShapeError, WeightsError
from ultra_dsmoe.nn.backbone.mobile_sam import CHANNELS, MEAN, STD, MobileSAM
from ultra_dsmoe.nn.backbone.mobile_sam_keys import (
    FitReport,
    is_mobile_sam_checkpoint,
    load_mobile_sam,
    timm_key,
)
from ultra_dsmoe.nn.registry import LAYERS, RowContext

MOBILE_SAM = {"embed_dims": (64, 128, 160, 320), "depths": (2, 2, 6, 2), "num_heads": (2, 4, 5, 10)}
WINDOWS = {"window_sizes": (7, 7, 14, 7), "mlp_ratio": 4.0, "mbconv_expand_ratio": 4.0}


@torch.no_grad()
def scramble(net: Any) -> None:
    """Give every tensor a value of its own; fresh TinyViTs have whole branches at zero."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if hasattr(module, "attention_biases"):
            nn.init.normal_(module.attention_biases)


@pytest.fixture(scope="module")
def original() -> Any:
    """Return the host's TinyViT in MobileSAM's layout, its last stage at stride 32 as ours."""
    from ultralytics.models.sam.modules.tiny_encoder import TinyViT

    torch.manual_seed(0)
    net = TinyViT(img_size=224, num_classes=1, **MOBILE_SAM, **WINDOWS)
    scramble(net)
    net.layers[2].downsample.conv2.c.stride = (2, 2)
    return net.eval()  # after the scrambling: it keeps position biases for evaluation


@pytest.fixture(scope="module")
def checkpoint(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a file in the layout of the released one: encoder, prompt encoder, decoder."""
    state = {f"image_encoder.{k}": v for k, v in original.state_dict().items()}
    state |= {
        "prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 256),
        "mask_decoder.iou_token.weight": torch.ones(1),
    }
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def encoder(checkpoint: Any) -> Any:
    return MobileSAM(pretrained=str(checkpoint)).eval()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@torch.no_grad()
def stages(net: Any, x: Any) -> Any:
    """Run the original layer by layer at any size and return its stages' maps, before each downsampling."""
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    h, w = x.shape[2] // 4, x.shape[3] // 4
    x, maps = net.patch_embed(x), []
    for layer in net.layers:
        for block in layer.blocks:
            block.input_resolution = (h, w)
            x = block(x)
        tokens = x if x.ndim == 3 else x.flatten(2).transpose(1, 2)
        maps.append(tokens.transpose(1, 2).reshape(x.shape[0], -1, h, w))
        if layer.downsample is not None:
            layer.downsample.input_resolution = (h, w)
            x = layer.downsample(x)
            h, w = h // 2, w // 2
    return maps


@pytest.mark.parametrize(("batch", "h", "w"), [(1, 32, 32), (2, 64, 96)])
def test_shapes(encoder: Any, batch: int, h: int, w: int) -> None:
    feats = encoder(torch.rand(batch, 3, h, w))
    expected = [(batch, c, h // s, w // s) for c, s in zip(encoder.channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(f.shape) for f in feats] == expected


@pytest.mark.parametrize("variant", CHANNELS)
def test_channels_are_those_of_timm(variant: Any) -> None:
    net = MobileSAM(variant=variant).to("meta")  # shapes only
    feats = net(torch.zeros(1, 3, 64, 64, device="meta"))
    assert [f.shape[1] for f in feats] == net.channels == list(CHANNELS[variant])


def test_size_and_cost() -> None:
    """The budget of the detector is planned with 5.07 M parameters and 21.1 GFLOPs (2 x MAC) at 640."""
    net, counter = MobileSAM().to("meta"), FlopCounterMode(display=False)
    with counter:
        net(torch.zeros(1, 3, 640, 640, device="meta"))
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(5.07e6, rel=1e-3)
    assert counter.get_total_flops() == pytest.approx(21.1e9, rel=5e-3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"c1": 4}, "MobileSAM c1: expected an image of 3 channels or 1, got 4"),
        ({"variant": "tiny_vit_5m"}, r"MobileSAM variant: .*did you mean 'tiny_vit_5m_224'\?\), got tiny_vit_5m"),
        ({"variant": "resnet"}, "MobileSAM variant: expected one of tiny_vit_5m_224, .* got resnet"),
        ({"variant": ["x"]}, "MobileSAM variant: expected one of"),
        (
            {"pretrained": "nowhere.pt"},
            r"pretrained: expected a MobileSAM checkpoint file, got nowhere\.pt, which does",
        ),
        ({"pretrained": 3}, "pretrained: expected a path or a state dict, got int"),
    ],
)
def test_bad_arguments_are_named(kwargs: Any, message: str) -> None:
    with pytest.raises((ConfigError, WeightsError), match=message):
        MobileSAM(**kwargs)


@pytest.mark.parametrize("shape", [(1, 3, 32, 48), (1, 3, 40, 32), (1, 1, 32, 32)])
def test_bad_input_is_named(encoder: Any, shape: Any) -> None:
    with pytest.raises(
        ShapeError, match=r"MobileSAM input: expected images \(B, 3, H, W\) with H and W multiples of 32"
    ):
        encoder(torch.rand(shape))


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_values_are_those_of_the_original(original: Any, encoder: Any, size: Any) -> None:
    """At 224 windows fit without padding; at 96 x 160 every stage pads."""
    x = torch.rand(2, 3, *size)
    for ours, theirs in zip(encoder(x), stages(original, x), strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_every_tensor_of_the_encoder_is_named(original: Any, encoder: Any) -> None:
    names = {name: timm_key(name) for name in original.state_dict()}
    assert set(names.values()) - {None} == encoder.state_dict().keys()
    assert all(name.startswith(("norm_head.", "head.", "neck.")) for name, key in names.items() if key is None)
    assert len([key for key in names.values() if key]) == len(encoder.state_dict())  # no two for one


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("patch_embed.seq.0.c.weight", "patch_embed.conv1.conv.weight"),
        ("patch_embed.seq.2.bn.running_var", "patch_embed.conv2.bn.running_var"),
        ("layers.0.blocks.1.conv3.c.weight", "stages.0.blocks.1.conv3.conv.weight"),
        ("layers.0.downsample.conv2.bn.bias", "stages.1.downsample.conv2.bn.bias"),
        ("layers.2.blocks.5.attn.attention_biases", "stages.2.blocks.5.attn.attention_biases"),
        ("layers.3.blocks.0.local_conv.c.weight", "stages.3.blocks.0.local_conv.conv.weight"),
        ("layers.1.blocks.0.mlp.fc1.bias", "stages.1.blocks.0.mlp.fc1.bias"),
        ("layers.1.blocks.0.attn.attention_bias_idxs", None),
        ("neck.0.weight", None),
        ("patch_embed.proj.weight", None),
    ],
)
def test_key_map(name: str, key: str | None) -> None:
    assert timm_key(name) == key


def test_report_and_log(checkpoint: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.utils import LOGGER

    monkeypatch.setattr(LOGGER, "propagate", True)
    net = MobileSAM()
    total = len(net.state_dict())
    with caplog.at_level("INFO", LOGGER.name):
        report = load_mobile_sam(net, checkpoint)
    assert report == FitReport(total, total, ())
    assert f"MobileSAM encoder: {total} of {total} tensors fit from {checkpoint}" in caplog.text


def test_nearly_fitting_checkpoint_is_taken_and_says_what_is_left(checkpoint: Any) -> None:
    state = torch.load(checkpoint, weights_only=True)
    del state["image_encoder.patch_embed.seq.0.c.weight"]
    state["image_encoder.layers.3.blocks.1.attn.attention_biases"] = torch.zeros(10, 7)  # another window
    net = MobileSAM()
    before = net.patch_embed.conv1.conv.weight.clone()
    report = load_mobile_sam(net, {"model": state})
    assert report.left == ("patch_embed.conv1.conv.weight", "stages.3.blocks.1.attn.attention_biases")
    assert report.matched == report.total - 2
    assert torch.equal(net.patch_embed.conv1.conv.weight, before)


def test_another_architecture_is_refused_and_changes_nothing(checkpoint: Any, tmp_path: Path) -> None:
    net = MobileSAM()
    before = copy.deepcopy(net.state_dict())
    state = torch.load(checkpoint, weights_only=True)
    kept = list(state)[: int(0.85 * len(net.state_dict()))]
    path = tmp_path / "other.pt"
    for content in ({k: state[k] for k in kept}, {"image_encoder.pos_embed": torch.zeros(3)}, {"a": torch.zeros(1)}):
        torch.save(content, path)
        with pytest.raises(
            WeightsError, match=r"pretrained: .* at least 90% fit, got .*other.pt, of which \d+ of \d+ "
        ) as e:
            load_mobile_sam(net, path)
        assert "\n" not in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "module", "list", "folder"])
def test_unreadable_file_is_one_line(damage: str, checkpoint: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    if damage == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:100_000])
    elif damage == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "folder":
        path.mkdir()
    else:
        torch.save(nn.Linear(2, 2) if damage == "module" else [1], path)
    with pytest.raises(WeightsError, match="pretrained: expected") as error:
        load_mobile_sam(MobileSAM(), path)
    assert "\n" not in str(error.value)
    assert not is_mobile_sam_checkpoint(path)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path, touched = tmp_path / "bad.pt", tmp_path / "touched"
    torch.save({"image_encoder.x": torch.zeros(1), "y": Touch(touched)}, path)
    with pytest.raises(WeightsError, match="pretrained: expected a readable file of tensors"):
        load_mobile_sam(MobileSAM(), path)
    assert not is_mobile_sam_checkpoint(path)
    assert not touched.exists()


def test_recognising_a_checkpoint(checkpoint: Any, tmp_path: Path) -> None:
    assert is_mobile_sam_checkpoint(checkpoint)
    assert is_mobile_sam_checkpoint({"model": torch.load(checkpoint, weights_only=True)})
    assert not is_mobile_sam_checkpoint({"model": {"model.0.conv.weight": torch.zeros(1)}})
    assert not is_mobile_sam_checkpoint(tmp_path / "missing.pt")


def test_grey_image_is_the_repeated_one(checkpoint: Any, encoder: Any) -> None:
    net, x = MobileSAM(c1=1, pretrained=checkpoint).eval(), torch.rand(1, 1, 64, 64)
    for grey, rgb in zip(net(x), encoder(x.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(grey, rgb)


def test_attention_follows_its_weights_in_evaluation(encoder: Any) -> None:
    """timm keeps gathered position biases: an averaged model would go on with those of its first validation."""
    net, x = copy.deepcopy(encoder), torch.rand(1, 3, 32, 32)
    before = net(x)[3]
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "attention_biases" in name:
                p.copy_(torch.randn_like(p) * 3)
    assert (net(x)[3] - before).abs().max() > 1e-3


def test_gradients_reach_every_parameter(encoder: Any) -> None:
    net = copy.deepcopy(encoder).train()
    sum((f * torch.randn_like(f)).sum() for f in net(torch.rand(2, 3, 64, 64))).backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_round_trips(encoder: Any) -> None:
    x = torch.rand(1, 3, 64, 64)
    want = encoder(x)  # with gradients: nothing of it may stay on the module
    fresh = MobileSAM().eval()
    fresh(x)
    fresh.load_state_dict(encoder.state_dict())
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), fresh):
        assert all(torch.equal(a, b) for a, b in zip(twin(x), want, strict=True))


OPS = {"Conv", "Gemm", "MatMul", "Softmax", "LayerNormalization", "Erf", "Add", "Sub", "Mul", "Div", "Sqrt", "Mod"}
OPS |= {"Reshape", "Transpose", "Split", "Slice", "Pad", "Concat", "Shape", "Gather", "Cast", "Unsqueeze", "Constant"}
OPS |= {"ConstantOfShape", "Identity"}  # all in TensorRT 8.6's list


def test_onnx_export(encoder: Any) -> None:
    x, buffer = torch.rand(1, 3, 96, 96), io.BytesIO()
    torch.onnx.export(encoder, (x,), buffer, opset_version=17, input_names=["x"], **LEGACY)
    assert {node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node} <= OPS
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, {"x": x.numpy()}), encoder(x), strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-4, rtol=1e-4)


def test_parse_rule() -> None:
    plan = LAYERS["MobileSAM"].parse(RowContext("MobileSAM", 3, []))
    assert (plan.args, plan.c2) == ([3, "tiny_vit_5m_224", None], [64, 128, 160, 320])
    plan = MobileSAM.parse(RowContext("MobileSAM", 1, ["tiny_vit_11m_224", "w.pt"]))
    assert (plan.args, plan.c2) == ([1, "tiny_vit_11m_224", "w.pt"], [64, 128, 256, 448])
    with pytest.raises(ConfigError, match="MobileSAM variant"):
        MobileSAM.parse(RowContext("MobileSAM", 3, [[64]]))
