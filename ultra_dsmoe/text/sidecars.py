"""The two texts and the record of each image: from files beside the images, else from a provider.

A sidecar is ``<image stem>.json`` beside the image with any of ``vlm``, ``llm``, ``record`` and ``record_image``; a
table is ``texts.csv`` in the folder that holds ``train/``. Paths serve to find these files and the pixels alone:
a provider is handed pixels and numbers, so that the class, which is a folder's name, never reaches it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import whole_file
from ultra_dsmoe.text.answers import Answers, content_key
from ultra_dsmoe.text.providers import TEXTS, TextProvider, make_provider, provider_from_state
from ultra_dsmoe.text.sidecar_files import (
    Pictures,
    Table,
    as_record,
    checked,
    content_of,
    pixels,
    read_sidecar,
    record_picture,
    set_root,
)


class ImageText(NamedTuple):
    """What is said of an image.

    Attributes:
        vlm: Of the picture, as a vision-language model says it.
        llm: Of the record, as a language model says it.
        record: Numbers recorded with the image, None where there are none.
    """

    vlm: str
    llm: str
    record: dict[str, float] | None


class TextSource:
    """Texts of images: sidecars first, then a provider, whose answers are kept by content.

    Args:
        provider: Says what the sidecars lack.

    Source: [PFA] Eq. 1.
    """

    def __init__(self, provider: TextProvider) -> None:
        self.provider = provider
        self._tables: dict[Path, Table] = {}
        self._answers: dict[str, Answers] = {}

    @classmethod
    def named(cls, spec: str = "rules") -> TextSource:
        """Return the source of a provider's name, see `ultra_dsmoe.text.providers.make_provider`.

        Raises:
            TextError: If there is no such provider.
        """
        return cls(make_provider(spec))

    def fit(self, images: Sequence[Path]) -> None:
        """Let the provider learn what is usual from the training half.

        Args:
            images: Image files.

        Raises:
            DataError: If an image or what stands beside it cannot be read.
            TextError: If there is no image.
        """
        paths = [Path(image) for image in images]
        records = [self._record(path, self._given(path)) for path in paths]
        self.provider.fit(Pictures(paths), records)
        self._answers = {}  # they belong to what was learned before

    def read(self, images: Sequence[Path]) -> list[ImageText]:
        """Return the texts of images, in order.

        Args:
            images: Image files.

        Raises:
            DataError: If an image or what stands beside it cannot be read, or lacks what the provider needs; it names
                the image and the key.
            TextError: If the provider cannot be loaded, or has learned nothing yet.
        """
        return [self._texts(path, self._given(path)) for path in map(Path, images)]

    def describe(self, image: np.ndarray, record: Mapping[str, float] | None) -> ImageText:
        """Return the texts of an image that has no file.

        Args:
            image: RGB uint8 [H, W, 3].
            record: Its record, or None.

        Raises:
            DataError: If the image or the record is something else, or the record lacks what the provider needs.
            TextError: If the provider cannot be loaded, or has learned nothing yet.
        """
        if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
            raise DataError("image", "RGB uint8 [H, W, 3]", f"{image.dtype} {list(image.shape)}")
        numbers = as_record("record", record)
        vlm, llm = self.provider.describe(image, numbers)
        return ImageText(vlm, llm, numbers)

    def has_both(self, image: Path) -> bool:
        """Whether both texts stand beside an image.

        Raises:
            DataError: If what stands beside it cannot be read.
        """
        given = self._given(image)
        return all(text in given for text in TEXTS)

    def fill(self, image: Path, *, overwrite: bool = False) -> bool:
        """Write what the provider says of an image into its sidecar, whole or not at all; what else is there stays.

        Args:
            image: Image file.
            overwrite: Whether to replace texts that are there.

        Returns:
            Whether it wrote; it does not where both texts are there.

        Raises:
            DSMoEError: As `read`; or if the sidecar cannot be written.
        """
        if not overwrite and self.has_both(image):
            return False
        given = self._given(image)
        asked = {key: value for key, value in given.items() if key not in TEXTS or not overwrite}
        said = self._texts(image, asked)
        sidecar = image.with_suffix(".json")
        content = read_sidecar(sidecar) if sidecar.is_file() else {}
        if "record" not in given and said.record is not None:  # read off a picture: not a second time
            content["record"] = said.record
        content |= {"vlm": said.vlm, "llm": said.llm}
        with whole_file(sidecar) as part:
            part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return True

    def state(self) -> dict[str, Any]:
        """Return what the provider is and has learned, JSON-like."""
        return self.provider.state()

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TextSource:
        """Rebuild a source from `state`; models are looked for on this disk alone.

        Raises:
            TextError: If it is no such state.
        """
        return cls(provider_from_state(state))

    def _given(self, image: Path) -> dict[str, Any]:
        """Return what stands beside an image, checked: of the table, over it of the sidecar."""
        found: dict[str, Any] = {}
        if (root := set_root(image)) is not None:
            if root not in self._tables:
                self._tables[root] = Table.read(root)
            found |= self._tables[root].of(image)
        sidecar = image.with_suffix(".json")
        return found | checked(sidecar, read_sidecar(sidecar)) if sidecar.is_file() else found

    def _record(self, image: Path, given: Mapping[str, Any]) -> dict[str, float] | None:
        """Return an image's record: the given one, or as the provider reads it off a picture."""
        reader = self.provider.reader
        if "record" in given or reader is None:
            return given.get("record")
        place = record_picture(image, given)
        content = content_of(place)
        kept, key = self._kept("record", reader.id, None), content_key(content)
        record = kept.get(key)
        if record is None:
            try:
                record = as_record("record", reader.read(pixels(place, content)))
            except DataError as e:
                raise DataError(f"{place}: {e.argument}", e.expected, e.got) from e
            kept.put(key, record)
        return as_record(str(place), record)

    def _texts(self, image: Path, given: Mapping[str, Any]) -> ImageText:
        """Return the texts of an image: the given ones, the kept ones, and what the provider says."""
        lacking = [text for text in TEXTS if text not in given]
        if not lacking:
            return ImageText(given["vlm"], given["llm"], given.get("record"))
        record, content, picture = self._record(image, given), content_of(image), None
        key = content_key(content, json.dumps(record, sort_keys=True).encode())
        said = {text: given[text] for text in TEXTS if text in given}
        for text in lacking:
            describer = getattr(self.provider, text)
            kept = self._kept(text, describer.id, describer)
            answer = kept.get(key)
            if not isinstance(answer, str):
                picture = pixels(image, content) if picture is None else picture
                try:
                    answer = describer.describe(text, picture, record)
                except DataError as e:
                    raise DataError(f"{image}: {e.argument}", e.expected, e.got) from e
                kept.put(key, answer)
            said[text] = answer
        return ImageText(said["vlm"], said["llm"], record)

    def _kept(self, text: str, provider: str, describer: Any) -> Answers:
        """Return the kept answers to one question, by who is asked and what it has learned."""
        if text not in self._answers:
            state = None if describer is None else describer.state()
            self._answers[text] = Answers([text, provider, state])
        return self._answers[text]
