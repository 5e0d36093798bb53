"""The host's data: with references in force it says so and gives pairs, at all other times it is the host's."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ultralytics.data
import ultralytics.models.yolo.detect.train as detect_train
from reference_sets import negative_set
from ultralytics.cfg import get_cfg
from ultralytics.data import build, utils
from ultralytics.data.dataset import YOLODataset

from ultra_dsmoe.data.reference.dataset import ReferenceDataset
from ultra_dsmoe.data.reference.in_force import DATA_KEY, attach, in_force
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.reference.spec import read_spec
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.plugin import reference_data, reference_training
from ultra_dsmoe.plugin.host import is_marked


@pytest.fixture
def pairs(tiny_boards: Path, tmp_path: Path) -> Path:
    return negative_set(tiny_boards, tmp_path / "set")


@pytest.fixture
def references(pairs: Path) -> References:
    spec = read_spec("reference", "golden", pairs.parent)
    assert spec is not None
    return References(spec, 3)


def built(data: dict[str, Any]) -> Any:
    return build.build_yolo_dataset(get_cfg(overrides={"imgsz": 64, "task": "detect"}), data["val"], 4, data, "val")


def test_data_carries_what_is_in_force(pairs: Path, references: References) -> None:
    plain = utils.check_det_dataset(str(pairs))
    assert DATA_KEY not in plain
    with in_force(references):
        data = utils.check_det_dataset(str(pairs))
    assert (data[DATA_KEY], data["channels"], plain["channels"]) == (references, 6, 3)
    assert {k: v for k, v in data.items() if k not in (DATA_KEY, "channels")} == {
        k: v for k, v in plain.items() if k != "channels"
    }


def test_all_of_the_host_sees_the_replacements() -> None:
    for module in (build, ultralytics.data, detect_train):
        assert is_marked(module.build_yolo_dataset)
    assert build.YOLODataset is YOLODataset


def test_pairs_come_where_the_data_has_references(pairs: Path, references: References) -> None:
    data = utils.check_det_dataset(str(pairs))
    assert type(built(data)) is YOLODataset
    dataset = built(attach(dict(data), references))
    assert type(dataset) is ReferenceDataset
    assert dataset[0]["img"].shape[0] == 6
    assert build.YOLODataset is YOLODataset


def test_an_error_leaves_the_hosts_class(pairs: Path, references: References) -> None:
    data = attach(utils.check_det_dataset(str(pairs)), references)
    next((pairs.parent / "golden" / "val").glob("*")).unlink()
    with pytest.raises(DataError, match="1 of 4 missing"):
        built(data)
    assert build.YOLODataset is YOLODataset


def test_an_exporter_with_a_data_set_of_its_own_calibrates_with_pairs(references: References) -> None:
    """As that of 8.3 has; today's goes through ``build_yolo_dataset``."""

    class Exporter:
        def get_int8_calibration_dataloader(self, prefix: str = "") -> Any:
            return module.YOLODataset

    module = SimpleNamespace(YOLODataset=YOLODataset, Exporter=Exporter)
    reference_data.patch_exporter(module)
    assert Exporter().get_int8_calibration_dataloader() is YOLODataset
    with in_force(references):
        assert Exporter().get_int8_calibration_dataloader() is ReferenceDataset
    assert module.YOLODataset is YOLODataset


# is a training one with references? -----------------------------------------------------------------------------------


def wanted(data: Any, key: Any = None, ours: bool = True, **arguments: Any) -> bool:
    given = {} if key is None else {"dsmoe_reference": key}
    return reference_training.is_wanted(
        SimpleNamespace(model_name="x.pt", model=None), ours, given, {"data": data, **arguments}
    )


def test_the_data_yaml_or_the_key_says_so(pairs: Path, tiny_boards: Path, tmp_path: Path) -> None:
    assert wanted(pairs)
    assert not wanted(tiny_boards)
    assert not wanted(pairs, key=False)
    assert wanted(tiny_boards, key=str(tmp_path))
    assert not wanted(pairs, resume=True)  # the net says so
    assert wanted([pairs, str(pairs)])
    assert not wanted([tiny_boards, tiny_boards])
    assert not wanted("nowhere.yaml")


def test_a_folder_of_a_set_is_looked_into(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    pairs.rename(tmp_path / "only" / "data.yaml")
    assert wanted(tmp_path / "only")


def test_sets_with_and_without_do_not_mix(pairs: Path, tiny_boards: Path) -> None:
    with pytest.raises(ConfigError, match=r"data: expected several data sets that all have references.*without"):
        wanted([pairs, tiny_boards])


def test_what_is_no_detector_takes_no_references(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"dsmoe_reference: expected a detector .* got x\.pt"):
        wanted(pairs, key="golden", ours=False)
    assert not wanted(pairs, ours=False)
    assert "reference: not used, since x.pt" in caplog.text


def test_another_meaning_of_the_word_is_left_alone(
    tiny_boards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a model that is no detector: its YAML may cite a paper there."""
    cited = tmp_path / "cited.yaml"
    cited.write_text(f"{tiny_boards.read_text()}\nreference: [Smith 2020]\n")
    assert not wanted(cited, ours=False)
    assert "reference" not in caplog.text


def test_the_class_of_the_host_comes_back_whoever_ends_first() -> None:
    """Two calls in threads of their own take turns."""
    stock = build.YOLODataset
    entered, may_end = threading.Event(), threading.Event()
    seen: list[Any] = []

    def first() -> None:
        with reference_data._pairs(build):
            entered.set()
            may_end.wait(5)

    def second() -> None:
        entered.wait(5)
        with reference_data._pairs(build):
            seen.append(build.YOLODataset)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait(5)
    threads[1].join(0.2)
    assert not seen  # it waits
    may_end.set()
    for thread in threads:
        thread.join(5)
    assert seen == [ReferenceDataset]
    assert build.YOLODataset is stock


def test_calibration_images_are_pairs(pairs: Path, references: References) -> None:
    """Of the installed host's exporter, whichever way it makes its data set."""
    from ultralytics.engine.exporter import Exporter

    exporter = Exporter(overrides={"data": str(pairs), "imgsz": 64, "batch": 2, "task": "detect", "split": "val"})
    exporter.model, exporter.imgsz = SimpleNamespace(task="detect"), [64, 64]
    with in_force(references):
        batch = next(iter(exporter.get_int8_calibration_dataloader()))
    image, reference = np.split(batch["img"].numpy().astype(int), 2, axis=1)
    assert image.shape == (2, 3, 64, 64)
    assert np.abs(image + reference - 255).max() <= 1
