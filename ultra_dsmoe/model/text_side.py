"""The text side of a network: vectors of the classes, their prompts and encoder, taxonomy, folding to constants."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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


class TextSide(Base):
    """Mixin before the host's model: what a network of ours knows and does about text.

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
        for row in self.blocks(TextSemantics):
            single = bank.each if row.attend else None
            row.set_bank(torch.from_numpy(bank.vectors if single is None else single))
        self.text_info = {
            "names": list(bank.names),
            "prompts": [list(p) for p in bank.prompts],
            "encoder": bank.encoder,
            "key": bank.key,
        }
        self._refold()

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

    def copy_text(self, source: TextSide) -> None:
        """Take over the text vectors of another net with the same number of classes and of `text_rows`."""
        for row, other in zip(self.text_rows(), source.text_rows(), strict=True):
            row.set_bank(other.bank)
        self.text_info = deepcopy(source.text_info)

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

        rows, info = self.text_rows(), self.text_info
        if not rows or not info:
            return None
        prompts = tuple(tuple(texts) for texts in info["prompts"])
        bank = rows[0].bank.detach().float().cpu()
        each = bank.numpy() if bank.ndim == 3 else None
        vectors = (bank if each is None else nn.functional.normalize(bank.sum(1), dim=-1)).numpy()
        return TextBank(class_names(self.names), prompts, info["encoder"], vectors, str(info.get("key", "")), each)

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

    def _refold(self) -> None:
        if any(m.folded for m in self.blocks(TextFoldMixin)):
            self.fold_text()
