"""Our keys among the host's arguments."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ultralytics.cfg import check_dict_alignment, get_cfg
from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.plugin import keys
from ultra_dsmoe.plugin.task_table import TASKS
from ultra_dsmoe.text.prompts import read_prompt_file


def test_keys_are_read_as_none_and_written_nowhere() -> None:
    for key in keys.KEYS:
        assert getattr(DEFAULT_CFG, key) is None
        assert getattr(get_cfg(), key) is None
    for written in (DEFAULT_CFG_DICT, vars(DEFAULT_CFG), vars(get_cfg()), dict(get_cfg(overrides={"epochs": 1}))):
        assert not [key for key in written if key.startswith("dsmoe_")]
    assert [key for key in vars(get_cfg(overrides={"dsmoe_topk": 3})) if key.startswith("dsmoe_")] == ["dsmoe_topk"]


def test_keys_without_a_value_go() -> None:
    """Checkpoints and args.yaml of earlier releases have all of them that there were."""
    earlier = dict.fromkeys(key for key in keys.KEYS if key not in keys.NONE_MEANS_NO)
    old = {**DEFAULT_CFG_DICT, **earlier, "dsmoe_moe": "dense"}
    for args in (get_cfg(old), get_cfg(overrides=old)):
        assert [key for key in vars(args) if key.startswith("dsmoe_")] == ["dsmoe_moe"]
        assert args.dsmoe_topk is None


def test_good_values_arrive(tmp_path: Path) -> None:
    given = {"dsmoe_topk": 3, "dsmoe_moe": "dense", "dsmoe_prompts": tmp_path / "p.yaml", "dsmoe_text": "hash"}
    args = get_cfg(overrides={**given, "dsmoe_keep": 8, "dsmoe_dynamic_conv": False, "dsmoe_parity": "val"})
    assert (args.dsmoe_topk, args.dsmoe_moe, args.dsmoe_text) == (3, "dense", "hash")
    assert (args.dsmoe_keep, args.dsmoe_dynamic_conv, args.dsmoe_parity) == (8, False, "val")
    both = {"dsmoe_parity": False, "dsmoe_moe": "static"}
    assert keys.pop_keys(dict(both)) == both
    assert args.dsmoe_prompts == str(tmp_path / "p.yaml")  # text, so that it can be saved
    for kd in ("mimic", str(tmp_path / "kd.yaml"), {"adaptive": "none"}):
        assert get_cfg(overrides={"dsmoe_kd": kd}).dsmoe_kd == kd
    assert get_cfg().dsmoe_topk is None
    assert get_cfg(overrides={"dsmoe_gamma": 2}).dsmoe_gamma == 2.0
    assert get_cfg(overrides={"dsmoe_verify": tmp_path / "cls.pt"}).dsmoe_verify == str(tmp_path / "cls.pt")
    for band in ((0.1, 0.5), [0.1, 0.5], "0.1,0.5", " 0.1, 0.5"):
        assert get_cfg(overrides={"dsmoe_verify_band": band}).dsmoe_verify_band == (0.1, 0.5)
    assert get_cfg(overrides={"dsmoe_verify_band": (0, 1)}).dsmoe_verify_band == (0.0, 1.0)
    assert get_cfg(overrides={"dsmoe_verify_min": 0}).dsmoe_verify_min == 0.0


def test_references_are_places_that_any_folder_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on, and its workers run, in other folders; the host reads the word none as None."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "golden").mkdir()
    said = {
        "golden": str(tmp_path / "golden"),
        "{pattern: '^(a)', file: 'golden/{1}.png', drop: 0}": {
            "pattern": "^(a)",
            "file": str(tmp_path / "golden" / "{1}.png"),
            "drop": 0,
        },
        "{align: shift}": {"align": "shift"},
        None: False,
        "none": False,
        False: False,
    }
    for given, meant in said.items():
        plain = get_cfg(overrides={"dsmoe_reference": given}).dsmoe_reference
        assert plain == meant
        assert get_cfg(overrides={"dsmoe_reference": plain}).dsmoe_reference == meant


@pytest.mark.parametrize(("evaluated", "meant"), [(hash, "hash"), (random, "random")], ids=["a function", "a module"])
def test_a_word_that_the_host_evaluated_is_taken_back(evaluated: object, meant: str) -> None:
    """Hosts before 8.4.60 evaluate ``dsmoe_text=hash`` of the command line."""
    assert get_cfg(overrides={"dsmoe_text": evaluated}).dsmoe_text == meant
    assert keys.pop_keys({"dsmoe_text": evaluated}) == {"dsmoe_text": meant}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dsmoe_topk", 0, "an integer from 1 .*got 0"),
        ("dsmoe_topk", -3, "an integer from 1 .*got -3"),
        ("dsmoe_topk", 2.5, "an integer from 1 .*got 2.5"),
        ("dsmoe_topk", True, "an integer from 1 .*got True"),
        ("dsmoe_topk", "five", "an integer from 1 .*got five"),
        ("dsmoe_moe", "gahter", "one of gather, static, dense .did you mean 'gather'.*got gahter"),
        ("dsmoe_moe", 1, "one of gather, static, dense, got 1"),
        ("dsmoe_keep", 0, "an integer from the experts per image .*got 0"),
        ("dsmoe_keep", True, "an integer from the experts per image .*got True"),
        ("dsmoe_keep", "all", "an integer from the experts per image .*got all"),
        ("dsmoe_dynamic_conv", 0, "true or false, got 0"),
        ("dsmoe_dynamic_conv", "off", "true or false, got off"),
        ("dsmoe_parity", 1.5, "True, False or a split .train, val, test., got 1.5"),
        ("dsmoe_parity", "vla", "True, False or a split .train, val, test. .did you mean 'val'.*got vla"),
        ("dsmoe_prompts", "prompts.txt", "a YAML file .*got prompts.txt"),
        ("dsmoe_prompts", {"spur": "x"}, "a YAML file"),
        ("dsmoe_text", "", "a value, as in 'key=value', got none"),
        ("dsmoe_text", " ", "auto, hash, sentence"),
        ("dsmoe_text", 7, "auto, hash, sentence"),
        ("dsmoe_text", len, "auto, hash, sentence.*got <built-in function len>"),
        ("dsmoe_kd", "attentoin", "attention, mimic, .*, host or a YAML file .did you mean 'attention'.*got attentoin"),
        ("dsmoe_gamma", 0, "a number above 0, the exponent of the gray transform, got 0"),
        ("dsmoe_gamma", -1.5, "a number above 0, .*got -1.5"),
        ("dsmoe_gamma", True, "a number above 0, .*got True"),
        ("dsmoe_gamma", "dark", "a number above 0, .*got dark"),
        ("dsmoe_verify", " ", "a classifier, such as cls.pt, got  "),
        ("dsmoe_verify", 3, "a classifier, such as cls.pt, got 3"),
        ("dsmoe_verify_band", 0.5, "two scores from 0 to 1, the lower one first, as in 0.1,0.5, got 0.5"),
        ("dsmoe_verify_band", (0.1, 0.2, 0.3), "two scores"),
        ("dsmoe_verify_band", (0.5, 0.1), "two scores"),
        ("dsmoe_verify_band", (0.5, 0.5), "two scores"),
        ("dsmoe_verify_band", (-0.1, 0.5), "two scores"),
        ("dsmoe_verify_band", (0.5, 1.1), "two scores"),
        ("dsmoe_verify_band", (0.1, float("nan")), "two scores"),
        ("dsmoe_verify_band", (False, True), "two scores"),
        ("dsmoe_verify_band", "low,high", "two scores from 0 to 1, .*, got low,high"),
        ("dsmoe_verify_min", -0.1, "a number from 0 to 1, got -0.1"),
        ("dsmoe_verify_min", "half", "a number from 0 to 1, got half"),
        ("dsmoe_kd", 2, "attention, mimic, .*, host or a YAML file, got 2"),
    ],
)
def test_bad_values_are_one_line(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: expected {message}") as caught:
        get_cfg(overrides={key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("dsmoe_topp", "did you mean 'dsmoe_topk'"),
        ("dsmoe_prompt", "did you mean 'dsmoe_prompts'"),
        ("dsmoe_zzzzzzzzzz", f"one of {', '.join(keys.KEYS)}, got an unknown key"),
        ("dsmoe_topk=", "a value, as in 'key=value'"),
    ],
)
def test_unknown_keys_are_one_line(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_dict_alignment(DEFAULT_CFG_DICT, {key: 1})


def test_the_hosts_own_typos_stay_the_hosts() -> None:
    with pytest.raises(SyntaxError, match="epochs"):
        get_cfg(overrides={"epochz": 1})


def test_take_leaves_no_key_behind() -> None:
    kwargs = {"imgsz": 64, "dsmoe_topk": 2, "dsmoe_moe": None}
    assert keys.pop_keys(kwargs) == {"dsmoe_topk": 2}
    assert kwargs == {"imgsz": 64}
    with pytest.raises(ConfigError, match=r"dsmoe_tpok.*unknown key"):
        keys.pop_keys({"dsmoe_tpok": 1})


@pytest.mark.parametrize(
    ("verb", "key", "value", "message"),
    [
        ("val", "dsmoe_parity", False, "this key with export only, got val dsmoe_parity=False"),
        ("predict", "dsmoe_parity", "val", "this key with export only"),
        ("train", "dsmoe_parity", True, "this key with export only"),
        ("val", "dsmoe_kd", "mimic", "this key with train only, got val dsmoe_kd=mimic"),
        ("train", "dsmoe_keep", 5, "this key with val, predict, export or benchmark"),
        ("train", "dsmoe_dynamic_conv", False, "this key with val, predict, export or benchmark"),
        ("train", "dsmoe_moe", "static", "gather or dense in a training"),
    ],
)
def test_keys_have_their_verbs(verb: str, key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: expected {message}"):
        keys.check_verb(verb, {key: value})
    keys.check_verb("train" if key in keys.TRAIN_ONLY else "export", {key: value})
    if verb == "train" and key != "dsmoe_parity":
        keys.check_verb("val", {key: value})


@pytest.mark.parametrize("verb", ["train", "val", "export", "benchmark"])
def test_references_one_by_one_are_for_images_one_by_one(verb: str) -> None:
    given = {"dsmoe_reference": ["a.png", "b.png"]}
    with pytest.raises(ConfigError, match=f"^dsmoe_reference: expected .*, got {verb} with a list of 2$"):
        keys.check_verb(verb, given)
    for allowed in ("predict", "track"):
        keys.check_verb(allowed, given)


@pytest.mark.parametrize("verb", ["train", "export", "benchmark"])
def test_a_second_stage_is_for_val_and_predict(verb: str) -> None:
    given = {"dsmoe_verify": "cls.pt", "dsmoe_verify_band": (0.1, 0.5), "dsmoe_verify_min": 0.3}
    for allowed in ("val", "predict"):
        keys.check_verb(allowed, given)
    message = f"^dsmoe_verify: expected this key with val or predict only, got {verb} dsmoe_verify=cls.pt"
    with pytest.raises(ConfigError, match=message):
        keys.check_verb(verb, given)
    with pytest.raises(ConfigError, match=r"^dsmoe_verify_min: expected this key beside dsmoe_verify"):
        keys.check_verb("val", {"dsmoe_verify_min": 0.3})
    keys.check_task(TASKS["detect"], given)
    with pytest.raises(ConfigError, match=r"^dsmoe_verify: expected a key of a classifier of ours"):
        keys.check_task(TASKS["classify"], given)


def test_prompts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("spur: a spike\nshort: [a bridge, copper between traces]\n3: [a number]\n")
    assert read_prompt_file(str(path)) == {
        "spur": ["a spike"],
        "short": ["a bridge", "copper between traces"],
        "3": ["a number"],
    }


def test_prompts_may_be_the_section_of_a_data_yaml(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("names: {0: spur}\nprompts:\n  spur: a spike\n")
    assert read_prompt_file(str(path)) == {"spur": ["a spike"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "an existing YAML file"),
        (b"", "a mapping"),
        (b"- a\n- b\n", "a mapping"),
        (b"spur: [", "readable YAML"),
        (b"\xff\xfe\x00", "readable YAML"),
        (b"spur: []", "class 'spur': expected one or more texts"),
        (b"spur: [1]", "class 'spur': expected one or more texts"),
        (b"spur: ['  ']", "class 'spur': expected one or more texts"),
        (b"spur: {a: b}", "class 'spur': expected one or more texts"),
    ],
)
def test_bad_prompt_files_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"dsmoe_prompts.*{message}") as caught:
        read_prompt_file(str(path))
    assert "\n" not in str(caught.value)
