"""No layer of ours takes a row's argument, or repeats, and does nothing with them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ultralytics.nn import tasks
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils.checks import check_file

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import registry
from ultra_dsmoe.nn.registry import LAYERS, RowContext, plan_row
from ultra_dsmoe.plugin.parser import Graph
from ultra_dsmoe.plugin.yaml_rows import load_layers

ROOT = Path(__file__).resolve().parents[2]
OURS = sorted(name for name, cls in load_layers().items() if cls.__module__.startswith("ultra_dsmoe."))
# Rows of layers that no packaged YAML has.
MORE = {name: RowContext(name, 32, []) for name in ("CBAM", "BandSplit", "DualAttention", "FeatureDifference", "GAD")}


@pytest.fixture(scope="module")
def rows() -> dict[str, RowContext]:
    """Return a row of each layer, as its rule sees it in the packaged YAMLs, at the scale of most repeats."""
    found, plan = dict(MORE), registry.plan_row

    def planned(ctx: RowContext) -> Any:
        found[ctx.name] = ctx
        return plan(ctx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "plan_row", planned)
        for file in sorted((ROOT / "cfg" / "models").glob("*.yaml")):
            if file.name.startswith("yolo26") and not check_file("yolo26.yaml", hard=False):
                continue  # an older Ultralytics; its layers stand in other YAMLs, too
            d = yaml_model_load(str(file))
            scales = d.get("scales", {})
            d["scale"] = max(scales, key=lambda scale: scales[scale][0], default="")
            graph = Graph(tasks, tasks.parse_model.__wrapped__, deepcopy(d), d.get("channels", 3))
            for row in graph.rows:
                if row.ours:
                    graph.plan(row)
    return found


def completed(ctx: RowContext) -> RowContext:
    """Return a row with all arguments that its rule asks for; what it lacked is what the rule takes for it."""
    asked: dict[int, Any] = {}

    class Asked(RowContext):
        def arg(self, index: int, default: Any = None) -> Any:
            asked[index] = default
            return super().arg(index, default)

    LAYERS[ctx.name].parse(Asked(**vars(ctx)))  # type: ignore[attr-defined]
    missing = range(len(ctx.args), max(asked, default=-1) + 1)
    return completed(replace(ctx, args=[*ctx.args, *(asked.get(i) for i in missing)])) if missing else ctx


@pytest.mark.parametrize("name", OURS)
def test_an_argument_too_many_is_refused(name: str, rows: dict[str, RowContext]) -> None:
    ctx = completed(rows[name])
    assert plan_row(ctx) == plan_row(rows[name])
    with pytest.raises(
        ConfigError, match=rf"row {name}: expected arguments that the layer reads, got 7 as number \d+$"
    ):
        plan_row(replace(ctx, args=[*ctx.args, 7]))


@pytest.mark.parametrize("name", OURS)
def test_repeats_are_made_or_refused(name: str, rows: dict[str, RowContext]) -> None:
    rule = LAYERS[name].parse  # type: ignore[attr-defined]
    once, twice = (replace(rows[name], n=n) for n in (1, 2))
    if rule(once) == rule(twice):
        with pytest.raises(ConfigError, match=rf"row {name}: expected 1 repeat, as the layer knows none, got 2$"):
            plan_row(twice)
    else:
        assert plan_row(twice) == rule(twice)
