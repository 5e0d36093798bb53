"""Benchmarks are scripts beside the package: tests load them as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    if name not in sys.modules:  # one `interleaved` for all: its classes are compared
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def interleaved() -> ModuleType:
    return load("interleaved")


@pytest.fixture(scope="session")
def moe_latency() -> ModuleType:
    return load("moe_latency")


@pytest.fixture(scope="session")
def net_latency() -> ModuleType:
    return load("net_latency")


@pytest.fixture(scope="session")
def reference_latency() -> ModuleType:
    load("net_latency")  # whose folder it works in
    return load("reference_latency")


@pytest.fixture(scope="session")
def train_step() -> ModuleType:
    return load("train_step")


@pytest.fixture(scope="session")
def distill_step() -> ModuleType:
    return load("distill_step")


@pytest.fixture(scope="session")
def cache_bench() -> ModuleType:  # `cache` is a fixture of pytest
    return load("cache")


@pytest.fixture(scope="session")
def int8_cpu() -> ModuleType:
    return load("int8_cpu")


@pytest.fixture
def usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a benchmark with arguments that it must refuse, and gives its last line."""

    def run(module: ModuleType, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as exit_info:
            module.main()
        assert exit_info.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.fixture(scope="session")
def classify_step() -> ModuleType:
    load("train_step")  # from which it takes the step
    return load("classify_step")
