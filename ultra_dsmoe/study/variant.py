"""Models of a study that are a known net with a few rows changed, and trainings with other texts than the data set's.

Row edits in place of copied model YAMLs: a copy of 65 lines would hide the two that matter. A row is named by number
and layer, so that an edit never lands on another row than it was written for:

```yaml
- name: no-text
  model: dsmoe-n
  rows:
    38 DualAttentionDetect: [[31, 34, 37], 1, Detect, [nc]] # in place of row 38, which is a DualAttentionDetect now
  dsmoe: {cls_loss: bce, qfl: null} # keys of the YAML's section of that name; null takes one out
```

Rows that nothing is to take the place of become ``nn.Identity``, so that all numbers stay valid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from ultra_dsmoe.checks import is_whole
from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError
from ultra_dsmoe.evaluate.evaluation import quiet

ROW = re.compile(r"(\d+) (\S+)")
TEXTS = ("names", "shuffled", "random", "zero")
PROMPTS = "prompts.yaml"
WIDTH = 384  # of random and zero vectors: that of the packaged ones, so that the projection behind them is as large


def edited(base: dict[str, Any], name: str, rows: Any, section: Any) -> dict[str, Any]:
    """Return a model YAML's content with some rows and keys of its ``dsmoe:`` section replaced.

    Args:
        base: The YAML as the host loads it.
        name: The model's name in the study, for messages.
        rows: ``"NUMBER LAYER"`` to the new row, or None.
        section: Keys of the section, those to be taken out with None, or None for the section as it is.

    Raises:
        ConfigError: If a row is not there, is another layer, or its replacement is no row; or the base has no section.
    """
    where, new = f"models: {name}: rows", [*base["backbone"], *base["head"]]
    if not isinstance(rows, (dict, type(None))):
        raise ConfigError(where, "a mapping such as {14 CBAM: [-1, 1, nn.Identity, []]}", rows)
    for key, row in (rows or {}).items():
        match = ROW.fullmatch(str(key))
        if match is None:
            raise ConfigError(where, "keys of number and layer, such as '14 CBAM'", key)
        i, layer = int(match[1]), match[2]
        if i >= len(new):
            raise ConfigError(f"{where}: {key}", f"a row from 0 to {len(new) - 1}", i)
        if (base["backbone"] + base["head"])[i][2] != layer:
            raise ConfigError(f"{where}: {key}", f"row {i} of this base to be a {layer}", new[i][2])
        if not _is_row(row):
            raise ConfigError(f"{where}: {key}", "[from, repeats, layer, [arguments]]", row)
        new[i] = row
    cut = len(base["backbone"])
    content = {**base, "backbone": new[:cut], "head": new[cut:]}
    if section is not None:
        if not isinstance(section, dict) or not isinstance(base.get("dsmoe"), dict):
            got = section if isinstance(base.get("dsmoe"), dict) else "a base without one"
            raise ConfigError(f"models: {name}: dsmoe", "keys for the dsmoe section that the base has", got)
        content["dsmoe"] = {k: v for k, v in {**base["dsmoe"], **section}.items() if v is not None}
    return content


def _is_row(row: Any) -> bool:
    if not (isinstance(row, list) and len(row) == 4):
        return False
    sources, repeats, layer, arguments = row
    numbers = [*(sources if isinstance(sources, list) and sources else [sources]), repeats]
    return all(map(is_whole, numbers)) and repeats > 0 and isinstance(layer, str) and isinstance(arguments, list)


def as_file(content: dict[str, Any]) -> str:
    """Return a loaded model YAML as text, without what the host adds when it loads one."""
    own = {k: v for k, v in content.items() if k not in ("scale", "yaml_file")}
    return yaml.safe_dump(own, sort_keys=False, default_flow_style=None, width=120)


def check_net(name: str, source: str, text: str) -> None:
    """Build the net once, so that rows that do not fit each other are found before anything is trained.

    Args:
        name: The model's name in the study.
        source: File name of its base, which names the scale.
        text: Content of its YAML.

    Raises:
        ConfigError: If host or package refuse it.
    """
    from ultralytics import YOLO

    with TemporaryDirectory() as folder, quiet():
        file = Path(folder) / Path(source).name
        file.write_text(text, encoding="utf-8")
        try:
            YOLO(str(file))
        except DSMoEError as e:
            raise ConfigError(f"models: {name}: rows", "a net that can be built", str(e)) from e
        except (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, SyntaxError,
                TypeError, ValueError) as e:  # fmt: skip  # whatever a layer says to arguments and maps it cannot take
            said = " ".join(str(e).split())
            raise ConfigError(f"models: {name}: rows", "a net that can be built", said) from e


def text_arguments(text: str, seed: int) -> dict[str, str]:
    """Return the arguments of a training with control text; ``prompts.yaml`` then holds `control_prompts`.

    Args:
        text: One of `TEXTS`, or empty for the data set's own.
        seed: Of the training: every one draws its own random vectors.
    """
    if text in ("names", "shuffled"):
        return {"dsmoe_prompts": PROMPTS}
    return {"dsmoe_text": f"{text}:{WIDTH}:{seed}" if text == "random" else f"{text}:{WIDTH}"} if text else {}


def control_prompts(text: str, names: list[str], prompts: Mapping[str, list[str]], seed: int) -> dict[str, list[str]]:
    """Return the prompts of a control.

    ``names``: the class name alone. ``shuffled``: every described class gets another one's descriptions, those of the
    class so many places further on; how many, the seed says. Its own name stays in front of them.

    Raises:
        DataError: If there are no two descriptions to be shuffled.
    """
    if text == "names":
        return {name: ["{name}"] for name in names}
    described = [name for name in names if name in prompts]
    if len(described) < 2:
        raise DataError("text: shuffled", "a data YAML with prompts for at least two classes", f"{len(described)}")
    shift = 1 + seed % (len(described) - 1)
    givers = described[shift:] + described[:shift]
    return {name: list(prompts[giver]) for name, giver in zip(described, givers, strict=True)}
