"""``dsmoe-yolo text``: check, write, encode and vary the descriptions of the classes.

It stands here, above the rooms of text and data, because one of its commands needs a checkpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ultra_dsmoe.commands import arguments
from ultra_dsmoe.data import packaged
from ultra_dsmoe.errors import ConfigError, DataError, TextError, did_you_mean
from ultra_dsmoe.text import cache, class_names, encode_bank, read_prompts
from ultra_dsmoe.text.bank import TextBank
from ultra_dsmoe.text.prompts import read_data

CLOSE_PAIRS = 3  # printed of the cosines
COMMANDS = ("lint", "generate", "encode", "paraphrases")
USAGE = """usage: dsmoe-yolo text COMMAND ...

  lint DATA.yaml                 what training would refuse, or the encoder could not tell apart; 1 if there is a fault
  generate DATA.yaml model=...   have a language model on this disk write descriptions, for you to review
  encode DATA.yaml               encode the descriptions once; print id, hash, size and cosines
  paraphrases best.pt prompts=.. accuracy of one checkpoint under other wordings

'dsmoe-yolo text COMMAND' prints the keys of a command."""
LINT_USAGE = """usage: dsmoe-yolo text lint DATA.yaml [key=value ...]

  prompts  YAML file {class: [texts]} to check in place of the data YAML's section
  encoder  auto, hash, sentence:<id or folder>, causal-lm:<id or folder>, as dsmoe_text    default: auto
  closest  cosine from which two classes count as one                                      default: 0.9"""
GENERATE_USAGE = """usage: dsmoe-yolo text generate DATA.yaml model=FOLDER [key=value ...]

  model      causal language model that transformers loads: a folder, or a hub id, which is fetched if it is not here
  per_class  descriptions per class         default: 3
  about      what the images show, such as about="bare boards, copper dark on a light ground"
  output     YAML file to write             default: prompts.yaml
  overwrite  True: replace that file        default: False
  tokens     most tokens of an answer       default: 2048
  device     cpu, cuda                      default: cpu
  seed       of the answers                 default: 0"""
ENCODE_USAGE = """usage: dsmoe-yolo text encode DATA.yaml [key=value ...]

  prompts  YAML file {class: [texts]} in place of the data YAML's section
  encoder  auto, hash, sentence:<id or folder>, causal-lm:<id or folder>, as dsmoe_text    default: auto
  output   file to write besides, such as vectors.npz, for a machine without the model"""

_SOURCE: dict[str, arguments.Check] = {"data": arguments.text, "prompts": arguments.text, "encoder": arguments.text}
LINT_KEYS = {**_SOURCE, "closest": arguments.number(-1, 1)}
ENCODE_KEYS = {**_SOURCE, "output": arguments.text}
GENERATE_KEYS: dict[str, arguments.Check] = {
    "data": arguments.text,
    "model": arguments.text,
    "per_class": arguments.whole(1, 20),
    "about": arguments.text,
    "output": arguments.text,
    "overwrite": arguments.yes_no,
    "tokens": arguments.whole(32),
    "device": arguments.text,
    "seed": arguments.whole(0, arguments.MAX_SEED),
}


def main(argv: list[str]) -> int:
    """Run the sub-command.

    Args:
        argv: Words behind ``dsmoe-yolo text``.

    Returns:
        The exit code: 1 where ``lint`` found a fault.

    Raises:
        DSMoEError: On bad input, before anything is written.
    """
    command, *words = argv or ["help"]
    if command in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    if command == "paraphrases":
        return import_module("ultra_dsmoe.explain.paraphrases").main(words)  # it needs torch and the host
    runs: dict[str, tuple[str, dict[str, arguments.Check], Callable[[dict[str, Any]], int]]] = {
        "lint": (LINT_USAGE, LINT_KEYS, _lint),
        "generate": (GENERATE_USAGE, GENERATE_KEYS, _generate),
        "encode": (ENCODE_USAGE, ENCODE_KEYS, _encode),
    }
    if command not in runs:
        raise ConfigError("text", f"{', '.join(COMMANDS)}{did_you_mean(command, COMMANDS)}", command)
    usage, checks, run = runs[command]
    if not words or words[0] in ("help", "-h", "--help"):
        print(usage)
        return 0
    return run(arguments.parse(words, checks, arguments.DATA))


def _lint(options: dict[str, Any]) -> int:
    """Print one line per finding and a summary."""
    from ultra_dsmoe.text import prompt_lint

    labels, section = _sections(options)
    if not section:
        need = "descriptions in the data YAML, or prompts=FILE.yaml ('dsmoe-yolo text generate' writes one)"
        raise TextError("prompts", need, f"none in {options.get('prompts', options['data'])}")
    usable, findings = prompt_lint.lint_section(labels, section)
    findings += prompt_lint.lint_wording(usable)
    bank = encode_bank(labels, usable, options.get("encoder", "auto"))
    findings += prompt_lint.lint_vectors(bank, options.get("closest", prompt_lint.CLOSEST))
    too_long, note = prompt_lint.lint_length(bank)
    findings += too_long
    for finding in sorted(findings, key=lambda f: not f.is_fault):
        print(finding)
    if note:
        print(note)
    faults = sum(f.is_fault for f in findings)
    count = sum(len(texts) for texts in usable.values())
    counted = f"{faults} fault{'s' * (faults != 1)}" if faults else "no fault"
    print(f"{count} descriptions of {len(labels)} classes, {bank.encoder}: {counted}")
    return int(faults > 0)


def _generate(options: dict[str, Any]) -> int:
    """Write a file of descriptions."""
    from ultra_dsmoe.text import generate

    if "model" not in options:
        raise ConfigError("model", "a causal language model: model=FOLDER, or model=ID to fetch one", "none")
    labels, _ = _sections(options)
    output = _output(options.get("output", "prompts.yaml"), (".yaml", ".yml"))
    if output.exists() and not options.get("overwrite", False):
        raise ConfigError("output", "a new file (or overwrite=True)", f"{output}, which exists")
    per_class, seed = options.get("per_class", generate.PER_CLASS), options.get("seed", 0)
    prompts = generate.generate_prompts(
        labels,
        generate.load_model(options["model"], _device(options.get("device", "cpu"))),
        per_class=per_class,
        about=options.get("about", generate.ABOUT),
        tokens=options.get("tokens", generate.TOKENS),
        seed=seed,
        progress=lambda line: print(f"describing {line}", file=sys.stderr, flush=True),
    )
    source = f"{Path(options['model']).name}, per_class={per_class} seed={seed}, for {Path(options['data']).name}"
    _replace(output, generate.as_yaml(prompts, source).encode())
    short = [f"{label} ({len(texts)})" for label, texts in prompts.items() if len(texts) < per_class]
    if short:
        print(f"caution: fewer than {per_class} usable descriptions: {', '.join(short)}")
    print(f"written: {output}, {sum(map(len, prompts.values()))} descriptions of {len(labels)} classes; review them,")
    print(f"then: dsmoe-yolo text lint {options['data']} prompts={output}")
    return 0


def _encode(options: dict[str, Any]) -> int:
    """Encode, print what came out, write a file if one is named."""
    labels, section = _sections(options)
    output = _output(options["output"], (".npz",)) if "output" in options else None
    bank = encode_bank(labels, section, options.get("encoder", "auto"))
    if output and bank.encoder.startswith("hash"):
        raise TextError("output", "a language model's vectors (those of hash need no file)", bank.encoder)
    print(*_summary(bank), sep="\n")
    if output:
        with TemporaryDirectory(dir=output.parent) as folder:
            os.replace(cache.save(Path(folder), bank.prompts, bank.encoder, bank.vectors), output)
        print(f"written: {output}; a machine finds it as $ULTRA_DSMOE_CACHE/text/{bank.key}.npz")
    return 0


def _summary(bank: TextBank) -> list[str]:
    """Return the lines about a bank."""
    places = [folder / f"{bank.key}.npz" for folder in (cache.cache_folder(), *cache.packaged_folders())]
    kept = next((str(path) for path in places if path.is_file()), "nowhere, they are made anew each time")
    lines = [f"encoder  {bank.encoder}", f"hash     {bank.key}", f"vectors  {len(bank.names)} x {bank.dim}, float32"]
    lines.append(f"kept     {kept}")
    if len(bank.names) < 2:
        return lines
    cosines = bank.vectors @ bank.vectors.T
    rows, columns = np.triu_indices(len(cosines), 1)
    pairs = cosines[rows, columns]
    lines.append(f"cosines  mean {pairs.mean():.3f}, least {pairs.min():.3f}, greatest {pairs.max():.3f}")
    nearest = np.argsort(-pairs)[:CLOSE_PAIRS]
    return [*lines, *(f"  {pairs[i]:.3f}  {bank.names[rows[i]]} / {bank.names[columns[i]]}" for i in nearest)]


def _sections(options: dict[str, Any]) -> tuple[tuple[str, ...], dict[Any, Any]]:
    """Return class names and descriptions, the latter from ``prompts=`` where that is given."""
    path = Path(options["data"])
    stem = str(path).removesuffix(".yaml")
    if not path.is_file() and stem in packaged.COMMANDS:
        path = packaged.yaml_folder() / f"{stem}.yaml"
    if not path.is_file():
        raise DataError("data", f"an existing data YAML{did_you_mean(stem, packaged.COMMANDS)}", str(path))
    data = read_data(path)
    section = read_prompts(options["prompts"]) if "prompts" in options else data.get("prompts") or {}
    if not isinstance(section, dict):
        raise TextError("prompts", "a mapping of class name to description(s)", section)
    return class_names(data["names"]), section


def _output(name: str, suffixes: tuple[str, ...]) -> Path:
    """Return a file that can be written, checked but not touched."""
    path = Path(name)
    if path.suffix not in suffixes or path.is_dir():
        raise ConfigError("output", f"a file that ends in {' or '.join(suffixes)}", name)
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise ConfigError("output", "a file in a folder that exists and can be written", name)
    return path


def _device(name: str) -> str:
    """Return a device of this machine."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as e:  # the middle one: torch without CUDA
        raise ConfigError("device", "cpu, or a device of this machine such as cuda", name) from e
    return name


def _replace(path: Path, content: bytes) -> None:
    """Write a file, complete or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
