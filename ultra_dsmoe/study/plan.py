"""A checked study: its cells, and what the training of each of them is given and depends on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import control
from .checks import digest, file_digest
from .data import Data
from .models import Model
from .overrides import FILES
from .task import DETECT, Detection
from .variant import PROMPTS, control_prompts, text_arguments

PREVIOUS = "previous"  # as a baseline: of each model, the one above it


@dataclass(frozen=True)
class Cell:
    """One training: a model on a data set with a seed."""

    model: Model
    data: Data
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell and of its folder."""
        return f"{self.data.name}-{self.model.name}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A checked study file.

    ``sizes`` holds what of `SIZES` its data sets do not say otherwise; ``absent`` the models that are left out;
    ``split`` is what the nets are validated on; ``against`` what single models are compared with, in place of
    ``baselines``.
    """

    name: str
    models: list[Model]
    data: list[Data]
    sizes: dict[str, int]
    seeds: list[int]
    overrides: dict[str, Any]
    baselines: list[str]
    knockouts: bool = False
    absent: tuple[str, ...] = ()
    task: Detection = DETECT
    split: str = "val"
    against: tuple[tuple[str, str], ...] = ()

    def cells(self) -> list[Cell]:
        """Return all cells, seed by seed, so that a study that is cut off has compared everything a little."""
        return [Cell(m, d, s) for s in self.seeds for d in self.data for m in self.models
                if s == self.seeds[0] or not m.is_fixed]  # fmt: skip

    def sizes_of(self, data: Data) -> dict[str, int]:
        """Return the `SIZES` of the trainings on a data set."""
        return {**self.sizes, **data.sizes}

    def pairs(self) -> list[tuple[str, str]]:
        """Return the models, each with the one that it is compared with, baseline by baseline."""
        if self.against:
            return list(self.against)
        names = [m.name for m in self.models]
        above = {PREVIOUS: list(zip(names[1:], names, strict=False))}
        pairs = [pair for b in self.baselines for pair in above.get(b, [(name, b) for name in names if name != b])]
        return list(dict.fromkeys(pairs))

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's result depends on: `arguments`, and the hashes of its data, net, prompts and weights."""
        arguments, files = {**self.arguments(cell), **self._validation(cell)}, self.files(cell)
        hashes = {"data_hash": cell.data.digest, "model_hash": cell.model.digest,
                  "prompts_hash": digest(files[PROMPTS]) if PROMPTS in files else ""}  # fmt: skip
        if cell.model.trained_on:
            hashes["trained_hash"] = cell.model.trained_on.digest
        for key in FILES:
            file = Path(os.path.expandvars(str(arguments.get(key))))
            if str(file) not in files and file.is_file():
                hashes[f"{key}_hash"] = file_digest(file)
        return {**arguments, **{key: value for key, value in hashes.items() if value}}

    def _validation(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's validation is asked for; nothing that the hashes of the first studies lack."""
        found = {} if self.task is DETECT else {"task": self.task.name}
        if self.task is not DETECT or self.split != "val":
            found["split"] = self.split
        return {**found, "tested": cell.data.source} if cell.model.trained_on else found

    def arguments(self, cell: Cell) -> dict[str, Any]:
        """Return the arguments of a cell's training, or all that a control depends on."""
        data = (cell.model.trained_on or cell.data).source
        if cell.model.control:
            return control.arguments(cell.model, data, self.sizes_of(cell.data), self.overrides, cell.seed)
        common = {"model": cell.model.source, "data": data, **self.sizes_of(cell.data)}
        text = text_arguments(cell.model.text, cell.seed)
        return {**common, "seed": cell.seed, **self.overrides, **cell.model.overrides, **text}

    def files(self, cell: Cell) -> dict[str, str]:
        """Return the files that a cell's training reads from its own folder; `arguments` call them by these names."""
        files = {cell.model.source: cell.model.content} if cell.model.content else {}
        if "dsmoe_prompts" in text_arguments(cell.model.text, cell.seed):
            prompts = control_prompts(cell.model.text, cell.data.names, cell.data.prompts, cell.seed)
            files[PROMPTS] = yaml.safe_dump(prompts, sort_keys=False, allow_unicode=True)
        return files
