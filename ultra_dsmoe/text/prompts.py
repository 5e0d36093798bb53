"""Class names and visual descriptions to prompts, one list per class.

Source: [DSMoE] Sec. 3.2, Stage 1 (text prompt initialisation). The wording of the template is our choice, after the
paper's overview figure; a description is optional.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.checks import class_names
from ultra_dsmoe.errors import ConfigError, DataError, TextError, nearest

NAME_FIELD = "{name}"
TEMPLATE = "a photo of a {name} defect"
# Full-width forms of ASCII, as East Asian keyboards type them, and its space: no model's vocabulary has them.
HALF_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: 0x20}


def near(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word in whatever case, or nothing."""
    by_lower = {k.lower(): k for k in known}
    match = nearest(word.lower(), by_lower)
    return f" (did you mean {by_lower[match]!r}?)" if match else ""


def class_prompts(
    names: Mapping[Any, Any] | Sequence[Any], prompts: Mapping[Any, Any] | None = None
) -> list[list[str]]:
    """Return the prompts of every class, in class order.

    A description is put behind the template, ``a photo of a {name} defect: {description}``; a class without one gets
    the bare template. A text that itself holds ``{name}`` replaces the template, so a user may change all the wording.

    Args:
        names: Index to class name, or a list of names.
        prompts: Class name to one description or several; classes may be left out.

    Returns:
        One list of at least one prompt per class.

    Raises:
        TextError: If a class does not exist, or a prompt is empty or not text.
    """
    labels = class_names(names)
    given = _descriptions(labels, prompts)
    return [[_sentence(label, text) for text in given.get(label, [""])] for label in labels]


def pooled_prompts(names: Mapping[Any, Any] | Sequence[Any], prompts: Mapping[Any, Any] | None = None) -> list[str]:
    """Return the prompts of all classes in class order, as those of one class that stands for them all.

    Args:
        names: As of `class_prompts`.
        prompts: As of `class_prompts`.

    Raises:
        TextError: As `class_prompts`.
    """
    return [text for texts in class_prompts(names, prompts) for text in texts]


def read_prompts(path: str | Path) -> dict[str, Any]:
    """Read descriptions from a YAML file: the mapping itself, or a ``prompts:`` section as in a data YAML.

    Raises:
        TextError: If the file is missing, is not YAML or holds no mapping.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise TextError("prompts file", "a readable YAML file", f"{path} ({first_line(e)})") from e
    section = data.get("prompts", data) if isinstance(data, dict) else data
    if not isinstance(section, dict):
        raise TextError(f"prompts file {path}", "a mapping of class name to description(s)", type(section).__name__)
    return section


def read_prompt_file(path: str) -> dict[str, list[str]]:
    """Read the file of ``dsmoe_prompts=``, one or more texts per class.

    Raises:
        ConfigError: If it is missing, no YAML, or not of the form ``{class: text or [texts]}``.
    """
    if not Path(path).is_file():
        raise ConfigError("dsmoe_prompts", "an existing YAML file", path)
    try:
        content = read_prompts(path)  # the mapping itself, or the `prompts:` section of a data YAML
    except TextError as e:
        raise ConfigError("dsmoe_prompts", f"{e.expected} in {path}", e.got) from e
    if not content:
        raise ConfigError("dsmoe_prompts", f"a mapping {{class: [prompts]}} in {path}", content)
    prompts = {str(name): [text] if isinstance(text, str) else text for name, text in content.items()}
    for name, texts in prompts.items():
        if not (isinstance(texts, list) and texts and all(isinstance(t, str) and t.strip() for t in texts)):
            raise ConfigError(f"dsmoe_prompts, class '{name}'", "one or more texts", texts)
    return prompts


def read_data(path: Path) -> dict[str, Any]:
    """Read a data YAML, of which only ``names`` is needed here.

    Raises:
        DataError: If the file is missing, is not YAML or has no names.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise DataError("data", "a readable YAML file", f"{path} ({first_line(e)})") from e
    if not isinstance(data, dict) or "names" not in data:
        raise DataError("data", "a data YAML with names", f"{path}, without")
    return data


def _descriptions(labels: tuple[str, ...], prompts: Mapping[Any, Any] | None) -> dict[str, list[str]]:
    """Check the ``prompts`` section and return every named class's descriptions, stripped."""
    if prompts is None:
        return {}
    if not isinstance(prompts, Mapping):
        raise TextError("prompts", "a mapping of class name to description(s)", prompts)
    found: dict[str, list[str]] = {}
    for key, value in prompts.items():
        label = str(key).strip()
        if label not in labels:
            known = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
            raise TextError("prompts", f"a class of this data set: {known}", f"{label!r}{near(label, labels)}")
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not texts:
            raise TextError(f"prompts[{label}]", "a text or a list of at least one text", value)
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise TextError(f"prompts[{label}]", "texts that are not empty", text)
        found[label] = [" ".join(text.split()) for text in texts]
    return found


def _sentence(label: str, text: str) -> str:
    """Return one prompt; underscores of the class name become spaces, which language models read better."""
    label, text = label.translate(HALF_WIDTH), text.translate(HALF_WIDTH)
    spoken = label.replace("_", " ").strip() or label
    if NAME_FIELD in text:
        return text.replace(NAME_FIELD, spoken)
    head = TEMPLATE.replace(NAME_FIELD, spoken)
    if text.startswith(head):  # a finished prompt, as a text bank keeps it
        return text
    return f"{head}: {text}" if text else head


def first_line(error: Exception) -> str:
    """Return the first line of an error's text that says something, for one-line messages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
