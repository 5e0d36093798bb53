"""The text side of a network: vectors of the classes, their prompts and encoder, taxonomy, folding to constants."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

    from ultra_dsmoe.text import Taxonomy, TextBank

    class Base(DetectionModel):
        """What the mixin needs of the class that it is mixed into."""

        def blocks(self, kind: type) -> list[Any]:
            """Return all blocks of a class."""

else:
    Base = object


class TextState(NamedTuple):
    """The text of a network, as a checkpoint keeps it.

    Attributes:
        vectors: One per class, (K, d), or one per description, (K, P, d); None in a network without text.
        info: Where they come from: `TextBank.state` without the vectors; None where nobody knows.
    """

    vectors: Tensor | None
    info: dict[str, Any] | None


class TextSide(Base):
    """Mixin before the host's model: what a network of ours knows and does about text.

    Its state is one `TextState`: the vectors are the buffer ``bank`` of its `TextSemantics` rows, which moves with the
    weights, and the rest is ``text_info``. `write_text` alone changes it, whatever the text comes from.

    Attributes:
        text_info: Names, prompts, encoder and content hash of the text vectors, or None before any were set.
    """

    text_info: dict[str, Any] | None = None
    model: Any  # the host's, for the type checker

    def set_text(self, bank: TextBank) -> None:
        """Take the text vectors of a bank, one per class in the order of ``names``.

        Raises:
            TextError: If the number of classes differs, a vector is not finite, or the model has no text side.
        """
        info = bank.state()
        vectors, each = info.pop("vectors"), info.pop("each", None)
        self.write_text(TextState(vectors if each is None or not self.attends_descriptions else each, info))

    def text_state(self) -> TextState:
        """Return a copy of the text, whatever happens to the network afterwards."""
        rows = self.text_rows()
        return TextState(rows[0].bank.detach().clone() if rows else None, deepcopy(self.text_info))

    def write_text(self, state: TextState) -> None:
        """Take the text that `text_state` of this network, or of another with as many classes, returned.

        Vectors that are at hand already, up to the precision of the network, are left alone.

        Raises:
            TextError: See `set_text`.
        """
        vectors, changed = state.vectors, False
        for row in self.blocks(TextSemantics) if vectors is not None else ():
            if not (row.text and vectors is not None and torch.equal(vectors.to(row.bank), row.bank)):
                row.set_bank(vectors)
                changed = True
        self.text_info = deepcopy(state.info)
        if changed and any(m.folded for m in self.blocks(TextFoldMixin)):
            self.fold_text()

    def adopt_text(self, source: object) -> None:
        """Take over the text of another net where it has some of known origin for as many classes."""
        rows = self.text_rows()
        if not (rows and isinstance(source, TextSide) and source.text_info):
            return
        state = source.text_state()
        if state.vectors is not None and len(state.vectors) == rows[0].nc:
            self.write_text(state)

    def text_rows(self) -> list[TextSemantics]:
        """Return the blocks that hold text vectors."""
        return [row for row in self.blocks(TextSemantics) if row.text]

    @property
    def attends_descriptions(self) -> bool:
        """Whether the net reads every description and not their mean alone."""
        return any(row.attend for row in self.text_rows())

    def require_finite_text(self, source: str) -> None:
        """Refuse text vectors that no encoder gives.

        Args:
            source: Where they come from, for the error.

        Raises:
            TextError: If one is not finite.
        """
        if not all(torch.isfinite(row.bank).all() for row in self.text_rows()):
            raise TextError(f"text vectors of {source}", "finite numbers", "NaN or infinity")

    def set_prompts(self, prompts: dict[str, str | list[str]], encoder: str | None = None) -> None:
        """Reword classes without retraining; classes left out keep their prompts.

        Args:
            prompts: Class name to description(s).
            encoder: Name of the trained encoder, which may then be fetched, or its folder; by default the model looks
                for it on this disk alone.

        Raises:
            TextError: If a class does not exist, a prompt is empty, the encoder cannot tell classes apart or is not on
                this disk, or the model has no text side.
        """
        from ultra_dsmoe.text import class_names, encode_bank

        if not self.text_rows():
            raise TextError("prompts", "a model with text", "a model without a TextSemantics row")
        info = self.text_info or {"encoder": "auto", "names": [], "prompts": None}
        keep = info["prompts"] if info["names"] == list(class_names(self.names)) else None
        bank = encode_bank(
            self.names,
            prompts,
            encoder or info["encoder"],
            keep=keep,
            local_only=encoder is None,
            each=self.attends_descriptions,
        )
        self.set_text(bank)

    def text_bank(self) -> TextBank | None:
        """Return the text vectors with names, prompts and encoder; None where there are none of known origin."""
        from ultra_dsmoe.text import TextBank, class_names

        vectors, info = self.text_state()
        if vectors is None or not info:
            return None
        each = {"each": vectors} if vectors.ndim == 3 else {}
        pooled = nn.functional.normalize(vectors.float().sum(1), dim=-1) if each else vectors
        return TextBank.from_state({"key": "", **info, "names": class_names(self.names), "vectors": pooled, **each})

    def set_taxonomy(self, taxonomy: Taxonomy, seed: int = 0) -> None:
        """Take a taxonomy of the classes: tree for the hierarchy loss, initial radii from its embedding."""
        radii = torch.atanh(torch.from_numpy(taxonomy.embed(seed=seed)).float().norm(dim=1).clamp_max(0.96))
        members = torch.from_numpy(taxonomy.members.astype("float32"))
        edges = torch.tensor(taxonomy.edges, dtype=torch.long).view(-1, 2)
        for block in self.blocks(HyperbolicFusion):
            block.set_taxonomy(members, edges, radii)

    @torch.no_grad()
    def fold_text(self) -> None:
        """Fold everything that depends on text alone into buffers."""
        outputs: dict[int, torch.Tensor] = {}
        row: Any  # the host's parser attaches i and f
        for row in self.model:
            i, sources = row.i, [row.f] if isinstance(row.f, int) else row.f
            if isinstance(row, TextSemantics):
                outputs[i] = row.text_constants()[0]
            text = next((outputs[j] for j in (source % i for source in sources if i) if j in outputs), None)
            for part in row.modules():  # a mixture's own gate lies inside it
                if isinstance(part, TextFoldMixin):
                    part.fold_text(text)
