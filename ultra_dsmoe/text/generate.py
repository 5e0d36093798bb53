"""Have a causal language model describe the classes of a data set, for a human to review.

Source: [DSMoE] Sec. 3.2, Stage 1: a distilled language model says what each defect looks like. The question
(`describe.txt`) and the reading of the answers are our choice. Any causal language model that transformers loads will
do; one with a chat template is asked through it. Nothing of this runs in a training or inference graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ultra_dsmoe.checks import class_names
from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.model_hub import load_local_first
from ultra_dsmoe.text.models import CausalLMEncoder

PER_CLASS = 3
TOKENS = 2048  # of one answer; a reasoning model thinks for about a thousand before it answers
ATTEMPTS = 3  # answers asked for until a class has its descriptions (our choice)
TEMPERATURE, TOP_P = 0.6, 0.95  # as the makers of DeepSeek-R1 recommend; lower ones repeat themselves
WORDS = (3, 40)  # of a description: less says nothing, more is an explanation (our choice)
LEAST_ROOM = 32  # tokens of an answer, below which no sentence fits
ABOUT = "industrial products under inspection"
TEMPLATE = Path(__file__).with_name("describe.txt")
THINKING = "<think>"

_FENCE = re.compile(r"^\s*```.*$", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*•·–>#]+|\(?\d{1,2}[.):\]](?!\d)|\(?[a-h][.)](?=\s))\s*")
_LABEL = re.compile(r"^(?:description|sentence|line|option)\s*\d*\s*[:.)-]\s*", re.IGNORECASE)
_QUOTES = "\"'`“”„‘’«»*_,; \t"
_TALK = re.compile(
    r"^(?:sure|certainly|of course|okay|ok|here (?:is|are)|here's|below (?:is|are)|note|the following|these "
    r"descriptions|i|i'll|i'm|let me|let's|we|as an ai|sorry|each (?:line|description))\b",
    re.IGNORECASE,
)

Model = tuple[Any, Any]  # tokenizer and network


def load_model(model: str, device: str = "cpu", *, local_only: bool = False) -> Model:
    """Load a causal language model and its tokenizer, from this disk first.

    Args:
        model: Folder, or an id on the Hugging Face hub; only an id is ever fetched.
        device: Where to run it.
        local_only: Never download, even where ``model`` is an id.

    Raises:
        TextError: If there is no such model or it cannot be loaded.
    """
    try:
        place = CausalLMEncoder(model)  # loads nothing: it knows what a folder and an id are
        loaded = load_local_first(
            lambda local: _load(place.source, local), place.id, local_only or Path(place.source).is_dir()
        )
    except TextError as e:
        raise TextError("model", e.expected, str(e.got) if model in str(e.got) else f"{model} ({e.got})") from e
    tokenizer, net, missing = loaded
    if missing:  # such as the output layer of a model that only encodes: it would be random
        raise TextError("model", "a causal language model with all its weights", f"{model} without {missing[0]}")
    return tokenizer, net.to(device).eval()


def _load(source: str, local: bool) -> tuple[Any, Any, list[str]]:
    """Return tokenizer, network and the names of the tensors that the files lack."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, local_files_only=local, output_loading_info=True)
    net, info = loaded
    return tokenizer, net, sorted(info["missing_keys"])


def generate_prompts(
    names: Mapping[Any, Any] | Sequence[Any],
    model: Model,
    *,
    per_class: int = PER_CLASS,
    about: str = ABOUT,
    tokens: int = TOKENS,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, list[str]]:
    """Ask a language model what every class looks like.

    Args:
        names: Index to class name, or a list of names.
        model: Tokenizer and network, see `load_model`.
        per_class: Descriptions per class; a model may give fewer.
        about: What the images show.
        tokens: Most tokens of one answer.
        seed: The same seed gives the same answers of the same model on the same machine.
        progress: Called with a line before every class.

    Returns:
        One to ``per_class`` descriptions of every class; none stands in two classes.

    Raises:
        TextError: If the model gives nothing usable for a class.
    """
    labels = class_names(names)
    taken: set[str] = set()
    found: dict[str, list[str]] = {}
    for k, label in enumerate(labels):
        progress(f"{k + 1}/{len(labels)} {label}")
        texts: list[str] = []
        text = question(label, labels, per_class, about)
        for attempt in range(ATTEMPTS):
            state = int(np.random.SeedSequence((seed, k, attempt)).generate_state(1)[0])
            answer = ask(model, text, tokens, seed=state, opening="Descriptions:")
            for line in read_answer(answer, label):
                if line.casefold() not in taken and len(texts) < per_class:
                    taken.add(line.casefold())
                    texts.append(line)
            if len(texts) == per_class:
                break
        if not texts:
            need = f"a description of {label!r} from the model in {ATTEMPTS} answers (a larger model, or more tokens=)"
            raise TextError("model", need, f"nothing usable, such as {' '.join(answer.split())[:80]!r}")
        found[label] = texts
    return found


def question(label: str, labels: Sequence[str], count: int, about: str = ABOUT) -> str:
    """Return what the model is asked about one class."""
    spoken = [name.replace("_", " ") for name in labels]
    text = TEMPLATE.read_text(encoding="utf-8")
    return text.format(name=label.replace("_", " "), classes=", ".join(spoken), count=count, about=about).strip()


def read_answer(answer: str, label: str = "") -> list[str]:
    """Return the descriptions in a model's answer, in order and without repeats.

    What a model says before it closes ``</think>`` is no answer. Numbers, bullets, quotes, bold type and the class name
    in front of a line are taken off; headings, talk, fragments and explanations are left out.
    """
    answer = without_thoughts(answer)
    spoken = re.escape(label.replace("_", " ")).replace(r"\ ", "[ _-]")
    named = re.compile(rf"^{spoken}\s*[:–-]\s+", re.IGNORECASE) if label else None
    lines: dict[str, str] = {}
    for line in _FENCE.sub("", answer).splitlines():
        line = _BULLET.sub("", line.strip("[] \t")).strip(_QUOTES)
        line = _LABEL.sub("", line).strip(_QUOTES)
        line = (named.sub("", line) if named else line).strip(_QUOTES)
        line = " ".join(line.replace("**", "").split()).removesuffix(".")
        if _is_description(line):
            lines.setdefault(line.casefold(), line)
    return list(lines.values())


def _is_description(line: str) -> bool:
    """Tell a sentence about a class from headings, talk and left-overs; a brace would be read as a template."""
    if line.endswith((":", "?")) or _TALK.match(line) or re.search(r"[{}<>|\x00-\x1f\ufffd]", line):
        return False
    return WORDS[0] <= len(re.findall(r"[^\W\d_]{2,}", line)) and len(line.split()) <= WORDS[1]


def ask(model: Model, text: str, tokens: int, *, seed: int | None = None, opening: str = "Answer:") -> str:
    """Return a model's answer to one question.

    Args:
        model: Tokenizer and network, see `load_model`.
        text: The question.
        tokens: Most tokens of the answer.
        seed: Draws the answer; without one it is the likeliest word each time.
        opening: Line with which an answer begins, for a model without a chat template.

    Raises:
        TextError: If the question leaves no room for an answer.
    """
    import torch

    tokenizer, net = model
    chat = bool(getattr(tokenizer, "chat_template", None))
    if chat:
        turns = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    else:  # a plain model goes on writing
        text = f"{text}\n\n{opening}\n"
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not chat).to(net.device)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    asked = inputs["input_ids"].shape[1]
    context = getattr(net.config, "max_position_embeddings", None) or asked + tokens
    if context - asked < LEAST_ROOM:
        need = f"room for a question of {asked} tokens and an answer"
        raise TextError("model", need, f"a context of {context} tokens")
    devices = [net.device] if net.device.type == "cuda" else []
    # A model's own settings may draw; without a seed nothing may be left of them.
    drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if seed is not None:
        drawn = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P}
    with torch.inference_mode(), torch.random.fork_rng(devices):
        torch.manual_seed(seed or 0)
        out = net.generate(
            **inputs,
            **drawn,
            max_new_tokens=min(tokens, context - asked),
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    answer = tokenizer.decode(out[0, asked:], skip_special_tokens=True)
    opened = text.rstrip().endswith(THINKING)  # by the chat template: the answer then only closes it
    return f"{THINKING}{answer}" if opened else answer


def without_thoughts(answer: str) -> str:
    """Return what a model says after it has thought; nothing where it ran out of tokens while thinking."""
    if "</think>" in answer:
        return answer.rpartition("</think>")[2]
    return "" if THINKING in answer else answer


def as_yaml(prompts: Mapping[str, Sequence[str]], source: str) -> str:
    """Return the file that ``dsmoe_prompts=`` reads, with a header that asks for a human's eye.

    Args:
        prompts: Descriptions of every class.
        source: What wrote them, such as the model and the seed.
    """
    header = [
        "# Written by a language model that has seen none of your images: REVIEW EVERY LINE before you train with it.",
        f"# {' '.join(source.split())}",
        "# Strike what a camera cannot see, what is wrong, and what fits another class too. Then:",
        "#   dsmoe-yolo text lint DATA.yaml prompts=THIS.yaml",
        "#   yolo train model=dsmoe-n.yaml data=DATA.yaml dsmoe_prompts=THIS.yaml",
    ]
    content = {label: list(texts) for label, texts in prompts.items()}
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    return "\n".join([*header, "", body])
