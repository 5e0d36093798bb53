"""What ``dsmoe_kd=`` may say."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from ultra_dsmoe.distill import KDConfig, resolve
from ultra_dsmoe.distill.config import parse, restore
from ultra_dsmoe.errors import ConfigError


def test_presets() -> None:
    attention, mimic = resolve("attention"), resolve("mimic")
    assert attention == KDConfig()
    assert (attention.terms, attention.temperature, attention.adaptive) == (("fg", "att", "glob"), 20, "ema")
    assert (mimic.terms, mimic.adaptive) == (("mimic",), "none")
    assert resolve("host") is None


def test_usual_settings() -> None:
    for config in (resolve("attention"), resolve("mimic")):
        assert (config.normalize, config.compare, config.levels) == (True, True, None)
        with pytest.raises(FrozenInstanceError):
            config.method = "mimic"
    assert {name: KDConfig().gain(name) for name in ("fg", "att", "glob", "cls", "box")} == {
        "fg": 0.25, "att": 1, "glob": 0.25, "cls": 1, "box": 1
    }  # fmt: skip
    assert [resolve("mimic").gain(name) for name in ("mimic", "cls", "box")] == [1, 1, 1]


def test_numbers_are_of_one_kind() -> None:
    config = resolve({"temperature": 5, "gains": {"fg": 2}})
    assert [type(v) for v in (config.temperature, config.gains["fg"], KDConfig(gains={"fg": 2}).gain("fg"))] == [
        float
    ] * 3


def test_levels_are_strides_from_one_on() -> None:
    assert resolve({"levels": [1]}).levels == (1,)
    for levels in ([8, "P3"], [8, True], [0, 8], [8, 0], [8.0], "8"):
        with pytest.raises(ConfigError, match=r"^dsmoe_kd levels: expected a list of strides, such as"):
            resolve({"levels": levels})


def test_a_file_and_a_mapping_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "kd.yaml"
    path.write_text("levels: [8, 16]\nadaptive: paper\ngains: {fg: 2, box: 0}\ntemperature: 5\ncompare: false\n")
    config = resolve(str(path))
    assert config == resolve(path)
    assert config == resolve(
        {"levels": [8, 16], "adaptive": "paper", "gains": {"fg": 2, "box": 0}, "temperature": 5, "compare": False}
    )
    assert (config.levels, config.gain("fg"), config.gain("box"), config.gain("att")) == ((8, 16), 2, 0, 1)


def test_what_earlier_checkpoints_have_beside_is_dropped() -> None:
    config = resolve("mimic")
    assert "temperature" not in config.state()
    assert restore({**config.state(), "temperature": 20.0}) == config
    assert restore({**config.state(), "gains": {"mimic": 0}}).gain("mimic") == 0  # trained nothing, and can be read


def test_state_reads_back() -> None:
    config = resolve({"method": "mimic", "levels": [8], "gains": {"mimic": 3}, "normalize": False})
    assert parse(json.loads(json.dumps(config.state()))) == config
    assert parse(KDConfig().state()) == KDConfig()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"method": "mimic", "temperature": 2}, "options out of method, .*, got temperature"),
        (
            {"gains": dict.fromkeys(("fg", "att", "glob"), 0)},
            "dsmoe_kd gains: expected a gain above 0 for fg or att or",
        ),
        (
            {"method": "mimic", "gains": {"mimic": 0}},
            "a gain above 0 for mimic, or no distill_model=, got 0, with which",
        ),
        (
            "attentoin",
            r"^dsmoe_kd: expected attention, mimic, self, self-plain, host or .* \(did you mean 'attention'\?\), got",
        ),
        ("kd.txt", "attention, mimic, self, self-plain, host or a YAML file, got kd.txt"),
        (3, "or a YAML file, got 3"),
        (None, "or a YAML file, got None"),
        ({"levles": [8]}, r"options out of method, levels, .* \(did you mean 'levels'\?\), got levles"),
        ({"method": "fitnets"}, "dsmoe_kd method: expected one of attention, mimic, self, self-plain, got fitnets"),
        ({"adaptive": "ratio"}, "dsmoe_kd adaptive: expected one of ema, paper, none, got ratio"),
        ({"levels": 8}, "dsmoe_kd levels: expected a list of strides"),
        ({"levels": []}, "a list of strides"),
        ({"levels": ["P3"]}, "a list of strides"),
        ({"levels": [True]}, "a list of strides"),
        ({"temperature": 0}, "dsmoe_kd temperature: expected a number above 0, got 0"),
        ({"temperature": "hot"}, "a number above 0, got hot"),
        ({"temperature": float("nan")}, "a number above 0, got nan"),
        ({"gains": 2}, "dsmoe_kd gains: expected a mapping"),
        ({"gains": {"fgg": 2}}, r"names out of fg, att, glob, cls, box \(did you mean 'fg'\?\), got fgg"),
        ({"method": "mimic", "gains": {"fg": 2}}, "names out of mimic, cls, box, got fg"),
        ({"gains": {"fg": -1}}, r"dsmoe_kd gains\.fg: expected a number >= 0, got -1"),
        ({"gains": {"fg": True}}, "a number >= 0, got True"),
        ({"normalize": 1}, "dsmoe_kd normalize: expected true or false, got 1"),
        ({"compare": "no"}, "dsmoe_kd compare: expected true or false, got no"),
        ("nowhere.yaml", "dsmoe_kd: expected an existing YAML file, got nowhere.yaml"),
    ],
)
def test_bad_values_are_one_line(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as e:
        resolve(value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"- a\n", b"levels: [", b"\xff\xfe\x00", b""])
def test_bad_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kd.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"dsmoe_kd: expected a (mapping|readable)") as e:
        resolve(str(path))
    assert "\n" not in str(e.value)
