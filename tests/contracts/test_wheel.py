"""The built wheel works without the checkout: its YAMLs are found and a model trains from an empty folder.

The clean environment is a virtual one that borrows the running environment's packages by path. Python does not read
the ``.pth`` files of a borrowed folder, so an editable install there stays invisible and only the wheel is found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("cfg", "datasets")
CHILD_SECONDS = 300


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds the wheel."""

    folder: Path

    def run(self, *command: str, cwd: Path) -> str:
        """Run its Python with ``command`` from ``cwd``; fail the test with the output's end when that fails."""
        hidden = ("PYTEST_", "PYTHONHOME", "VIRTUAL_ENV")
        env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        paths = [p for p in env.pop("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != ROOT]
        done = subprocess.run(
            [str(self.folder / "bin" / "python"), *command],
            cwd=cwd,
            env={**env, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})},
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as `make wheel` does, but with the tools at hand, hence without network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Install the wheel alone, then lend it the other packages of the running environment."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    done = subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lent = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    next((folder / "lib").glob("python*/site-packages")).joinpath("lent.pth").write_text("\n".join(lent))
    return Environment(folder)


def test_wheel_holds_every_shipped_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in SHIPPED:
        found = [p.relative_to(ROOT) for p in (ROOT / folder).rglob("*.yaml")]
        tracked = [p for p in found if "pcb-demo" not in p.parts]  # the host may put the drawn boards there
        assert tracked, f"{folder}/ holds no YAML"
        missing = [p.as_posix() for p in tracked if f"ultra_dsmoe/{p.as_posix()}" not in names]
        assert not missing, f"not in the wheel: {missing}"


def test_wheel_tells_type_checkers_that_it_has_types(wheel: Path) -> None:
    assert "ultra_dsmoe/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [n for n in names if not n.startswith(("ultra_dsmoe/", "ultra_dsmoe-"))]
    assert not strangers
    weights_or_images = [n for n in names if n.endswith((".pt", ".onnx", ".jpg", ".png", ".bmp", ".keep"))]
    assert not weights_or_images
    licences = [n for n in names if n.endswith(("licenses/LICENSE", "licenses/NOTICE"))]
    assert len(licences) == 2


def test_the_wheel_is_what_is_imported(clean: Environment, tmp_path: Path) -> None:
    shown = clean.run("-c", "import ultra_dsmoe; print(ultra_dsmoe.__file__)", cwd=tmp_path)
    assert Path(shown.strip()).is_relative_to(clean.folder)


def test_packaged_yamls_are_found_by_bare_name(clean: Environment, tmp_path: Path) -> None:
    names = ("dsmoe.yaml", "dsmoe-n.yaml", "yolov8-dsmoe.yaml", "pcb-demo.yaml", "neu-det.yaml")
    code = f"from ultralytics.utils.checks import check_file as f; print(*(f(n) for n in {names}), sep=chr(10))"
    found = [Path(line) for line in clean.run("-c", code, cwd=tmp_path).split("\n")[-len(names) - 1 : -1]]
    assert all(path.is_relative_to(clean.folder) and path.is_file() for path in found), found


def test_size_letter_is_read_from_the_name(clean: Environment, tmp_path: Path) -> None:
    names = ("dsmoe-n.yaml", "yolov8s-dsmoe.yaml")
    code = f"from ultralytics.nn.tasks import yaml_model_load as y; print(*(y(n)['scale'] for n in {names}))"
    assert clean.run("-c", code, cwd=tmp_path).split()[-2:] == ["n", "s"]


def test_model_trains_from_an_empty_folder(clean: Environment, tmp_path: Path, tiny_boards: Path) -> None:
    yolo = str(Path(sysconfig.get_path("scripts")) / "yolo")
    settings = ("epochs=1", "imgsz=64", "batch=4", "workers=0", "plots=False", f"project={tmp_path}", "name=run")
    clean.run(yolo, "train", "model=dsmoe-n.yaml", f"data={tiny_boards}", *settings, cwd=tmp_path)
    best = tmp_path / "run" / "weights" / "best.pt"
    assert best.is_file()
    code = f"from ultralytics import YOLO; print(type(YOLO({str(best)!r}).model).__module__)"
    assert clean.run("-c", code, cwd=tmp_path).strip().endswith("ultra_dsmoe.model.detector")
