"""Images that carry their texts: the plane, what an item has, room."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ultra_dsmoe.data.pairs import PairDataset, require_classes, require_room, with_plane
from ultra_dsmoe.errors import ConfigError, DataError


class Base:
    """Two grey images."""

    root = "somewhere"

    def __init__(self) -> None:
        self.samples = [("a.png", 0), ("b.png", 1)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"img": torch.full((3, 4, 5), 0.1 * i), "cls": self.samples[i][1]}


def test_the_plane_begins_with_the_numbers_row_by_row() -> None:
    image = with_plane(torch.full((3, 2, 3), 0.5), np.array([1, 2, 3, 4], dtype=np.float32))
    assert image.shape == (4, 2, 3)
    assert (image[:3] == 0.5).all()
    assert image[3].tolist() == [[1, 2, 3], [4, 0, 0]]


def test_half_precision_stays() -> None:
    assert with_plane(torch.zeros(3, 2, 2).half(), np.ones(1, dtype=np.float32)).dtype == torch.float16


def test_an_item_has_its_own_texts_whatever_the_turn() -> None:
    numbers = np.array([[1, 2], [3, 4]], dtype=np.float32)
    dataset = PairDataset(Base(), numbers, np.array([[0, 0], [0, 1]]))
    item = dataset[1 + 2]  # image 1, second turn
    assert item["img"][3].flatten()[:3].tolist() == [3, 4, 0]
    assert (item["cls"], item["turn"], item["groups"].tolist()) == (1, 1, [0, 1])
    assert len(dataset) == 2
    assert dataset.root == "somewhere"  # as the host's set has it
    assert pickle.loads(pickle.dumps(dataset))[0]["turn"] == 0  # on its way to a worker


def test_images_that_are_left_out_take_their_texts_along() -> None:
    dataset = PairDataset(Base(), np.array([[1, 2], [3, 4]], dtype=np.float32), np.array([[0, 0], [0, 1]]))
    dataset.samples = dataset.samples[1:]
    assert len(dataset) == 1
    assert dataset[0]["img"][3].flatten()[:2].tolist() == [3, 4]
    assert dataset[0]["groups"].tolist() == [0, 1]


@pytest.mark.parametrize(("numbers", "fits"), [(768, True), (785, False)])
def test_images_must_have_room(numbers: int, fits: bool) -> None:
    if fits:
        require_room(numbers, (28, 28))
        return
    with pytest.raises(ConfigError, match="imgsz: expected at least 29, since an image carries the 785 numbers"):
        require_room(numbers, (28, 28))


def test_a_split_without_a_class_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "stray.png").touch()
    for folder, got in ((None, "no such folder"), (tmp_path, f"no folder of a class in {tmp_path}")):
        with pytest.raises(DataError, match=r"^data: expected a folder with images in val/<class>/, got ") as caught:
            require_classes(folder, "val")
        assert str(caught.value).endswith(got)
    (tmp_path / "spot").mkdir()
    require_classes(tmp_path, "val")
