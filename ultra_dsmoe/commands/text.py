"""``dsmoe-yolo text lint | generate | encode``: check, write and encode the descriptions of the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.commands.arguments import DATA
from ultra_dsmoe.commands.opening import output_file, progress
from ultra_dsmoe.constants import MAX_SEED
from ultra_dsmoe.data import packaged
from ultra_dsmoe.errors import ConfigError, DataError, TextError, did_you_mean
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, number, text, whole, yes_no
from ultra_dsmoe.text import cache, class_names, encode_bank, generate, read_prompts
from ultra_dsmoe.text.bank import TextBank
from ultra_dsmoe.text.class_separation import CLOSEST
from ultra_dsmoe.text.prompts import read_data

CLOSE_PAIRS = 3  # printed of the cosines


def lint(options: Given) -> int:
    """Print one line per finding and a summary."""
    from ultra_dsmoe.text import prompt_lint

    labels, section = _sections(options)
    if "prompts" in options and not section:
        raise TextError("prompts", "a mapping {class: [texts]}", f"nothing in {options['prompts']}")
    usable, findings = prompt_lint.lint_section(labels, section)
    findings += prompt_lint.lint_wording(usable)
    # The findings say of close classes what a warning would.
    bank = encode_bank(labels, usable, options.get("encoder", "auto"), check_separation=False)
    findings += prompt_lint.lint_vectors(bank, options.get("closest", CLOSEST))
    too_long, note = prompt_lint.lint_length(bank)
    findings += too_long
    for finding in sorted(findings, key=lambda f: not f.is_fault):
        print(finding)
    if note:
        print(note)
    faults = sum(f.is_fault for f in findings)
    count = sum(len(texts) for texts in usable.values())
    counted = f"{faults} fault{'s' * (faults != 1)}" if faults else "no fault"
    judged = f"{count} descriptions of {len(labels)} classes" if count else f"{len(labels)} classes by name alone"
    print(f"{judged}, {bank.encoder}: {counted}")
    return int(faults > 0)


def write(options: Given) -> int:
    """Write a file of descriptions."""
    if "model" not in options:
        raise ConfigError("model", "a causal language model: model=FOLDER, or model=ID to fetch one", "none")
    labels, _ = _sections(options)
    output = output_file(options.get("out", "prompts.yaml"), (".yaml", ".yml"))
    if output.exists() and not options.get("overwrite", False):
        raise ConfigError("out", "a new file (or overwrite=True)", f"{output}, which exists")
    per_class, seed = options.get("per_class", generate.PER_CLASS), options.get("seed", 0)
    prompts = generate.generate_prompts(
        labels,
        generate.load_model(options["model"], _device(options.get("device", "cpu"))),
        per_class=per_class,
        about=options.get("about", generate.ABOUT),
        tokens=options.get("tokens", generate.TOKENS),
        seed=seed,
        progress=progress("describing"),
    )
    source = f"{Path(options['model']).name}, per_class={per_class} seed={seed}, for {Path(options['data']).name}"
    write_files(output.absolute().parent, {output.name: generate.as_yaml(prompts, source).encode()})
    short = [f"{label} ({len(texts)})" for label, texts in prompts.items() if len(texts) < per_class]
    if short:
        print(f"caution: fewer than {per_class} usable descriptions: {', '.join(short)}")
    print(f"written: {output}, {sum(map(len, prompts.values()))} descriptions of {len(labels)} classes; review them,")
    print(f"then: dsmoe-yolo text lint {options['data']} prompts={output}")
    return 0


def encode(options: Given) -> int:
    """Encode, print what came out, write a file if one is named."""
    labels, section = _sections(options)
    output = output_file(options["out"], (".npz",)) if "out" in options else None
    # Its cosines are printed.
    bank = encode_bank(labels, section, options.get("encoder", "auto"), check_separation=False)
    if output and bank.encoder.startswith("hash"):
        raise TextError("out", "a language model's vectors (those of hash need no file)", bank.encoder)
    print(*_summary(bank), sep="\n")
    if output:
        cache.write(output, bank.prompts, bank.encoder, bank.vectors)
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


def _device(name: str) -> str:
    """Return a device of this machine."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as e:  # the middle one: torch without CUDA
        raise ConfigError("device", "cpu, or a device of this machine such as cuda", name) from e
    return name


_PROMPTS = Option(text, "YAML file {class: [texts]} in place of the data YAML's section", "that section")
_ENCODER = Option(text, "auto, hash, sentence:<id or folder>, causal-lm:<id or folder>, as dsmoe_text", "auto")
_DATA = Option(text, "data YAML")
LINT = Command(
    "text lint",
    """Says what training would refuse of the descriptions, or of the names where there are none, and which classes the
encoder could not tell apart; exit code 1 if there is a fault.""",
    {
        "data": _DATA,
        "prompts": _PROMPTS,
        "encoder": _ENCODER,
        "closest": Option(number(-1, 1), "cosine from which two classes count as one", "0.9"),
    },
    lint,
    DATA,
)
GENERATE = Command(
    "text generate",
    """Has a language model on this disk write descriptions, for you to review.""",
    {
        "data": _DATA,
        "model": Option(text, "causal language model for transformers: a folder, or a hub id, fetched if not here"),
        "per_class": Option(whole(1, 20), "descriptions per class", str(generate.PER_CLASS)),
        "about": Option(text, 'what the images show, such as about="bare boards, copper dark on a light ground"'),
        "out": Option(text, "YAML file to write", "prompts.yaml"),
        "overwrite": Option(yes_no, "whether to replace that file", "False", flag=True),
        "tokens": Option(whole(32), "most tokens of an answer", str(generate.TOKENS)),
        "device": Option(text, "cpu, cuda", "cpu"),
        "seed": Option(whole(0, MAX_SEED), "of the answers", "0"),
    },
    write,
    DATA,
)
ENCODE = Command(
    "text encode",
    """Encodes the descriptions once; prints id, hash, size and cosines.""",
    {
        "data": _DATA,
        "prompts": _PROMPTS,
        "encoder": _ENCODER,
        "out": Option(text, "file to write besides, such as vectors.npz, for a machine without the model", "none"),
    },
    encode,
    DATA,
)
