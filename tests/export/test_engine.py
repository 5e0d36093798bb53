"""Engines up to TensorRT's own calls: a stand-in for its API records them, as of 8.6 and as of 10.

Its "engine" is the ONNX file behind a line with the version, and its GPU is this process's memory, so that an engine
can be run through everything of ours. No GPU was at hand; nothing here shows that a real TensorRT builds the network.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError, ShapeError, WeightsError
from ultra_dsmoe.export import engine_export, tensorrt_session
from ultra_dsmoe.export.engine import build_engine, main
from ultra_dsmoe.export.engine_export import export_engine, precision_of
from ultra_dsmoe.export.model_file import read_engine, read_onnx, write_engine
from ultra_dsmoe.export.runtime import Runtime

Export = Callable[..., Path]
VERSIONS = ("8.6.1", "10.3.0")


class FakeTensorRT(ModuleType):
    """The part of TensorRT's Python API that we call; attributes differ between 8.6, 10 and 11 as in its headers."""

    def __init__(self, version: str, *, fast: bool = True, gpu: bool = True, faults: tuple[str, ...] = ()) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.major = int(version.split(".")[0])
        self.calls: list[tuple] = []
        self.fast, self.gpu, self.faults, self.builds = fast, gpu, faults, True
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
        self.BuilderFlag = SimpleNamespace(**({} if self.major > 10 else {"FP16": "fp16", "INT8": "int8"}))
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**({"EXPLICIT_BATCH": 0} if self.major < 10 else {}))
        self.Logger = type("Logger", (), {"WARNING": 1, "ERROR": 2, "__init__": lambda self, level: None})
        self.nptype = lambda dtype: dtype

    def record(self, *call: Any) -> None:
        self.calls.append(call)

    def Builder(self, logger: Any) -> FakeBuilder:
        if not self.gpu:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeBuilder(self)

    def OnnxParser(self, network: SimpleNamespace, logger: Any) -> Any:
        def parse(path: str) -> bool:
            self.record("parse", Path(path).name)
            if self.faults:
                return False
            network.data = Path(path).read_bytes()
            image = onnx.load(path).graph.input[0]
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in image.type.tensor_type.shape.dim]
            network.get_input = lambda i: SimpleNamespace(name=image.name, shape=tuple(dims))
            return True

        errors = [SimpleNamespace(desc=lambda fault=fault: fault) for fault in self.faults]
        return SimpleNamespace(parse_from_file=parse, num_errors=len(errors), get_error=lambda i: errors[i])

    def Runtime(self, logger: Any) -> Any:
        def load(plan: bytes) -> FakeEngine | None:
            mark, _, data = plan.partition(b"\n")
            return FakeEngine(self, data) if mark == self.__version__.encode() else None

        return SimpleNamespace(deserialize_cuda_engine=load)


class FakeBuilder:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        if trt.major < 10:
            self.platform_has_fast_fp16 = self.platform_has_fast_int8 = trt.fast

    def create_network(self, flags: int) -> SimpleNamespace:
        self.trt.record("network", flags)
        return SimpleNamespace()

    def create_builder_config(self) -> Any:
        return SimpleNamespace(
            set_memory_pool_limit=lambda pool, size: self.trt.record("memory", pool, size),
            set_flag=lambda flag: self.trt.record("flag", flag),
            add_optimization_profile=lambda profile: self.trt.record("profile"),
        )

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda *shapes: self.trt.record("shapes", *shapes))

    def build_serialized_network(self, network: SimpleNamespace, config: Any) -> bytes | None:
        self.trt.record("build")
        return f"{self.trt.__version__}\n".encode() + network.data if self.trt.builds else None


class FakeEngine:
    """Runs the ONNX file on addresses of this process."""

    def __init__(self, trt: FakeTensorRT, data: bytes) -> None:
        self.trt = trt
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        image, output = self.session.get_inputs()[0], self.session.get_outputs()[0]
        self.tensors = {output.name: output, image.name: image}  # the output first: order must not matter
        self.image, self.output = image.name, output.name
        self.num_io_tensors = len(self.tensors)
        self.shape: tuple[int, ...] | None = None

    def get_tensor_name(self, i: int) -> str:
        return list(self.tensors)[i]

    def get_tensor_mode(self, name: str) -> str:
        return self.trt.TensorIOMode.INPUT if name == self.image else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> type:
        return np.float32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        fixed = tuple(n if isinstance(n, int) else -1 for n in self.tensors[name].shape)
        if self.shape is None or -1 not in fixed:
            return fixed
        if name == self.image:
            return self.shape
        return self.session.run(None, {self.image: np.zeros(self.shape, np.float32)})[0].shape

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return self.shape[0] <= 2

    def execute_v2(self, addresses: list[int]) -> bool:
        at = dict(zip(self.tensors, addresses, strict=True))
        image = np.empty(self.get_tensor_shape(self.image), np.float32)
        ctypes.memmove(image.ctypes.data, at[self.image], image.nbytes)
        out = self.session.run(None, {self.image: image})[0]
        ctypes.memmove(at[self.output], np.ascontiguousarray(out).ctypes.data, out.nbytes)
        return True


class FakeDriver:
    """The driver's functions, on this process's memory."""

    def __init__(self, name: str) -> None:
        self.held: dict[int, ctypes.Array] = {}
        self.freed = 0

    cuInit = cuDeviceGet = cuDevicePrimaryCtxRetain = cuCtxSetCurrent = staticmethod(lambda *_: 0)

    def cuMemAlloc_v2(self, address: Any, size: ctypes.c_size_t) -> int:
        memory = (ctypes.c_char * size.value)()
        address._obj.value = ctypes.addressof(memory)
        self.held[address._obj.value] = memory
        return 0

    def cuMemFree_v2(self, address: ctypes.c_uint64) -> int:
        del self.held[address.value]
        self.freed += 1
        return 0

    def cuMemcpyHtoD_v2(self, to: ctypes.c_uint64, source: ctypes.c_void_p, size: ctypes.c_size_t) -> int:
        assert size.value <= len(self.held[to.value])
        ctypes.memmove(to.value, source.value, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, to: ctypes.c_void_p, source: ctypes.c_uint64, size: ctypes.c_size_t) -> int:
        assert size.value <= len(self.held[source.value])
        ctypes.memmove(to.value, source.value, size.value)
        return 0


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorRT]:
    """Return a function that makes a stand-in importable as `tensorrt`."""

    def put(version: str, **settings: Any) -> FakeTensorRT:
        trt = FakeTensorRT(version, **settings)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setattr(tensorrt_session.ctypes, "CDLL", FakeDriver)
        return trt

    return put


@pytest.fixture
def source(exported: Export) -> Path:
    return exported("yolov8n.yaml", opset=17)


def quantized(path: Path, target: Path) -> Path:
    """Copy an ONNX file with one Q/DQ pair in front of its first convolution."""
    model = onnx.load(path)
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    scale = onnx.numpy_helper.from_array(np.float32(1 / 127), "scale")
    zero = onnx.numpy_helper.from_array(np.int8(0), "zero")
    model.graph.initializer.extend([scale, zero])
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]))
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", [first.input[0], "scale", "zero"], ["q"]))
    first.input[0] = "dq"
    onnx.save(model, target)
    return target


# building -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_calls_of_both_generations(version: str, precision: str, install, source: Path, tmp_path: Path) -> None:
    trt = install(version)
    build_engine(source, tmp_path / "a.engine", precision=precision, workspace=1.5)
    explicit = 1 if version.startswith("8") else 0  # 1 << EXPLICIT_BATCH
    flags = [("flag", "fp16")] if precision == "fp16" else []
    expected = [("network", explicit), ("parse", source.name), ("memory", "workspace", 3 << 29), *flags, ("build",)]
    assert trt.calls == expected


@pytest.mark.parametrize("version", [*VERSIONS, "11.0.0"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nodes_of_the_file_decide_on_int8(version: str, precision: str, install, source: Path, tmp_path: Path) -> None:
    trt = install(version)
    file = quantized(source, tmp_path / "q.onnx")
    build_engine(file, precision=precision)
    assert ("flag", "int8") in trt.calls or version.startswith("11")
    assert ("flag", "fp16") not in trt.calls


@pytest.mark.parametrize("version", VERSIONS)
def test_dynamic_graph_gets_a_profile(version: str, install, exported: Export, tmp_path: Path) -> None:
    trt = install(version)
    build_engine(exported("yolov8n.yaml", opset=17, dynamic=True, batch=2), tmp_path / "d.engine")
    most = (2, 3, 96, 96)
    assert ("shapes", "images", (1, 3, 32, 32), most, most) in trt.calls
    assert ("profile",) in trt.calls


def test_file_has_the_hosts_header(install, source: Path, tmp_path: Path) -> None:
    install("8.6.1")
    path = build_engine(source, tmp_path / "best.engine")
    data = path.read_bytes()
    length = int.from_bytes(data[:4], "little", signed=True)  # as the host writes it
    header = json.loads(data[4 : 4 + length])
    assert data[4 + length :] == b"8.6.1\n" + source.read_bytes()
    assert header["names"]["0"] == "spur"
    assert (header["imgsz"], header["stride"], header["task"], header["batch"]) == ([96, 96], 32, "detect", 1)
    assert header["tensorrt"] == "8.6.1"
    assert header["engine_bytes"] == len(data) - 4 - length


def test_the_host_reads_the_header(install, source: Path, tmp_path: Path) -> None:
    base = pytest.importorskip("ultralytics.nn.backends.base", reason="hosts before 8.4.100 read it elsewhere")
    install("8.6.1")
    path = build_engine(source, tmp_path / "best.engine")
    offset, metadata = base.BaseBackend.engine_header(path)
    assert path.read_bytes()[offset:].startswith(b"8.6.1\n")

    class Backend(base.BaseBackend):
        def load_model(self, weight: Any) -> None:
            self.apply_metadata(metadata)

        def forward(self, im: Any) -> Any: ...

    backend = Backend(path, "cpu")
    assert (backend.stride, backend.imgsz, backend.task, backend.batch) == (32, [96, 96], "detect", 1)
    assert backend.names["0"] == "spur"
    assert backend.end2end is False


def test_nothing_half_written_is_left(install, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3.0")
    target = tmp_path / "best.engine"
    target.write_bytes(b"the engine of yesterday")

    def full(_handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        build_engine(source, target)
    assert [p.name for p in tmp_path.iterdir()] == ["best.engine"]
    assert target.read_bytes() == b"the engine of yesterday"


def test_module_needs_neither_torch_nor_onnx(source: Path, tmp_path: Path) -> None:
    """In a fresh process where they are blocked, it comes as far as TensorRT."""
    block = (
        "import sys\nfor n in ('torch', 'ultralytics', 'onnx', 'onnxruntime', 'cv2', 'tensorrt'): sys.modules[n] = None"
        "\nfrom ultra_dsmoe.export.engine import main\nsys.exit(main(sys.argv[1:]))"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-c", block, str(source), "--output", str(tmp_path / "a.engine")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    expected = "error: tensorrt: expected TensorRT 8.5 or newer (8.6.1 for a GTX 1080), got none"
    assert done.stderr.strip().startswith(expected)
    assert done.stderr.count("\n") == 1


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "settings", "arguments", "message"),
    [
        ("8.4.3", {}, {}, "tensorrt: expected TensorRT 8.5 or newer .* got 8.4.3"),
        ("10.2.0", {}, {}, "tensorrt: expected .* not 10.2.0, got 10.2.0"),
        ("8.6.1", {"gpu": False}, {}, "tensorrt: expected a machine with an NVIDIA GPU and its driver"),
        ("8.6.1", {"fast": False}, {"precision": "fp16"}, "fp16: expected a GPU with fast FP16 arithmetic, got one"),
        ("11.0.0", {}, {"precision": "fp16"}, "fp16: expected TensorRT 10 or older .* got 11.0.0"),
        ("8.6.1", {}, {"precision": "int8"}, "int8: expected an ONNX file with Q/DQ nodes .*quantize makes one"),
        ("8.6.1", {}, {"precision": "fp8"}, "precision: expected one of fp32, fp16, int8, got fp8"),
        ("8.6.1", {}, {"workspace": 0}, "workspace: expected a number of GiB above 0, got 0"),
    ],
)
def test_settings_that_cannot_be_met(
    version: str, settings: dict, arguments: dict, message: str, install, source: Path, tmp_path: Path
) -> None:
    install(version, **settings)
    with pytest.raises(ConfigError, match=message):
        build_engine(source, tmp_path / "a.engine", **arguments)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_built(install, source: Path, exported: Export, tmp_path: Path) -> None:
    trt = install("8.6.1")
    with pytest.raises(ConfigError, match=r"expected opset 17 or lower for TensorRT 8\.6\.1, got 18"):
        build_engine(exported("yolov8n.yaml", opset=18), tmp_path / "a.engine")
    with pytest.raises(ConfigError, match="fp16: expected an ONNX file without Q/DQ nodes"):
        build_engine(quantized(source, tmp_path / "q.onnx"), precision="fp16")
    with pytest.raises(ConfigError, match=r"model: expected an \.onnx file"):
        build_engine(tmp_path / "best.pt")
    with pytest.raises(WeightsError, match="expected a readable file"):
        build_engine(tmp_path / "gone.onnx")
    with pytest.raises(ConfigError, match="output: expected a file in an existing folder"):
        build_engine(source, tmp_path / "gone" / "a.engine")
    (tmp_path / "half.onnx").write_bytes(source.read_bytes()[:100000])
    with pytest.raises(WeightsError, match="expected a complete ONNX file"):
        build_engine(tmp_path / "half.onnx")
    assert trt.calls == []
    trt.builds = False
    with pytest.raises(WeightsError, match=r"expected a network that TensorRT 8\.6\.1 builds"):
        build_engine(source, tmp_path / "a.engine")
    install("10.3.0", faults=("No importer registered for op: DFT", "and another"))
    with pytest.raises(
        WeightsError, match=r"a graph that TensorRT 10\.3\.0 reads, got No importer .* DFT; and another"
    ):
        build_engine(source, tmp_path / "a.engine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.onnx", "q.onnx"]


def test_command(install, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trt = install("10.3.0")
    out = tmp_path / "b.engine"
    assert main([str(source), "--fp16", "--workspace", "2", "--output", str(out)]) == 0
    assert ("memory", "workspace", 2 << 30) in trt.calls
    assert ("flag", "fp16") in trt.calls
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{out}: ")
    assert main([str(source), "--int8", "--output", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: int8: expected an ONNX file with Q/DQ nodes")
    with pytest.raises(SystemExit):
        main([str(source), "--int8", "--fp16"])


# running --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("arguments", [{}, {"dynamic": True, "batch": 2}])
def test_runtime_of_an_engine(
    version: str, arguments: dict, install, exported: Export, pictures: dict[str, np.ndarray], tmp_path: Path
) -> None:
    install(version)
    onnx_file = exported("yolov8n.yaml", opset=17, **arguments)
    engine, reference = Runtime(build_engine(onnx_file, tmp_path / "a.engine")), Runtime(onnx_file, threads=1)
    assert engine.info == reference.info
    assert engine.batch == reference.batch
    for picture in (pictures["thin"], pictures["square"], pictures["portrait"]):  # growing memory where dynamic
        found = engine.predict(picture)
        assert found
        assert found == reference.predict(picture)


def test_memory_is_reused(install, source: Path, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    install("8.6.1")
    runtime = Runtime(build_engine(source, tmp_path / "a.engine"))
    for _ in range(3):
        runtime.predict(pictures["square"])
    driver = runtime._session._cuda._driver
    assert (len(driver.held), driver.freed) == (2, 0)


def test_engines_that_cannot_be_run(
    install, source: Path, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("8.6.1")
    path = build_engine(source, tmp_path / "a.engine")
    data = path.read_bytes()
    (tmp_path / "half.engine").write_bytes(data[:-1000])
    with pytest.raises(WeightsError, match=r"half\.engine: expected \d+ bytes of engine, got \d+: the file is not"):
        Runtime(tmp_path / "half.engine")
    (tmp_path / "head.engine").write_bytes(data[:200])
    with pytest.raises(WeightsError, match="expected an engine with the metadata header of `yolo export`"):
        Runtime(tmp_path / "head.engine")
    dynamic = build_engine(exported("yolov8n.yaml", opset=17, dynamic=True, batch=2), tmp_path / "d.engine")
    with pytest.raises(ShapeError, match="images: expected a shape that the engine was built for, got"):
        Runtime(dynamic).predict_batch([np.zeros((96, 96, 3), np.uint8)] * 3)
    install("10.3.0")
    with pytest.raises(WeightsError) as caught:
        Runtime(path)
    expected = f"{path}: expected an engine of TensorRT 10.3.0 for this GPU, got one of TensorRT 8.6.1"
    assert str(caught.value) == f"{expected} that does not load: build it here from the .onnx file"
    monkeypatch.setattr(tensorrt_session.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(f"no {name}")))
    with pytest.raises(ConfigError, match="engine: expected a machine with an NVIDIA driver, got none"):
        Runtime(path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ConfigError, match=r"tensorrt: expected an installed TensorRT, to run \.engine files"):
        Runtime(path)


def test_an_engine_of_the_hosts_own_exporter(install, source: Path, tmp_path: Path) -> None:
    """It has no length and no version in its header."""
    install("8.6.1")
    metadata = json.dumps(read_onnx(source).metadata)
    path = tmp_path / "host.engine"
    with path.open("wb") as f:  # as the host's `onnx2engine` does
        f.write(len(metadata).to_bytes(4, byteorder="little", signed=True))
        f.write(metadata.encode())
        f.write(b"8.6.1\n" + source.read_bytes())
    assert Runtime(path).info.names[0] == "spur"
    install("10.3.0")
    with pytest.raises(WeightsError, match="got one that does not load: build it here from"):
        Runtime(path)


def test_a_failing_gpu(install, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("8.6.1")
    path = build_engine(source, tmp_path / "a.engine")
    monkeypatch.setattr(FakeDriver, "cuInit", staticmethod(lambda *_: 100))
    with pytest.raises(ConfigError, match="engine: expected a working NVIDIA GPU, got error 100 of cuInit"):
        Runtime(path)


def test_engine_file_round_trip(tmp_path: Path) -> None:
    write_engine(tmp_path / "a.engine", {"names": {0: "spür"}, "stride": 32}, b"\x00plan")
    metadata, engine = read_engine(tmp_path / "a.engine")
    assert engine == b"\x00plan"
    assert (metadata["names"], metadata["stride"]) == ({"0": "spür"}, 32)


# the host's command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stock(source: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a stand-in for the host's export that notes its arguments and writes the ONNX file."""

    def export(**kwargs: Any) -> str:
        export.given = kwargs
        path = tmp_path / f"best.{kwargs['format']}"
        path.write_bytes(source.read_bytes())
        return str(path)

    return export


def able(monkeypatch: pytest.MonkeyPatch, *lacking: str) -> None:
    monkeypatch.setattr(engine_export, "missing", lambda: list(lacking))


@pytest.mark.parametrize("arguments", [{}, {"half": True}, {"quantize": 16, "workspace": 2, "device": 0}])
def test_the_host_builds_what_it_can(arguments: dict, stock, monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch)
    given = {"format": "engine", "opset": 17, **arguments}
    assert export_engine(stock, given).endswith("best.engine")
    assert stock.given == given


def test_without_a_gpu_there_is_a_file_and_a_recipe(stock, monkeypatch, tmp_path: Path, caplog) -> None:
    able(monkeypatch, "no TensorRT", "no NVIDIA GPU")
    given = {"format": "engine", "opset": 17, "imgsz": 96, "half": True, "device": 0, "workspace": 4.0}
    assert export_engine(stock, given) == str(tmp_path / "best.onnx")
    assert stock.given == {"format": "onnx", "opset": 17, "imgsz": 96}
    first, _, command, _ = caplog.messages[-1].splitlines()
    expected = "format=engine: expected TensorRT and a GPU, got no TensorRT and no NVIDIA GPU: exported"
    assert first.endswith(f"{expected} {tmp_path / 'best.onnx'} instead.")
    assert command.strip() == "python -m ultra_dsmoe.export.engine best.onnx --fp16 --workspace 4"


def test_int8_is_explicit(
    stock, install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_boards: Path, caplog
) -> None:
    given = {"format": "engine", "opset": 17, "quantize": "int8", "data": str(tiny_boards), "device": 0}
    able(monkeypatch, "no NVIDIA GPU")
    assert export_engine(stock, given) == str(tmp_path / "best-int8.onnx")
    assert stock.given == {"format": "onnx", "opset": 17}
    command = caplog.messages[-1].splitlines()[2].split()
    assert command[2:] == ["ultra_dsmoe.export.engine", "best-int8.onnx", "--int8", "--output", "best.engine"]
    able(monkeypatch)
    trt = install("8.6.1")
    assert export_engine(stock, given) == str(tmp_path / "best.engine")
    assert stock.given == {"format": "onnx", "opset": 17, "device": 0}
    assert [call for call in trt.calls if call[0] in ("parse", "flag")] == [
        ("parse", "best-int8.onnx"),
        ("flag", "int8"),
    ]
    with pytest.raises(ConfigError, match="data: expected a data YAML with a 'val' split, to calibrate INT8 on"):
        export_engine(stock, {"format": "engine", "int8": True})


def test_the_command_on_a_machine_without_gpu(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    able(monkeypatch, "no TensorRT", "no NVIDIA GPU")
    checkpoint = tmp_path / "best.pt"
    shutil.copy(exported("dsmoe-n.yaml", opset=17).with_suffix(".pt"), checkpoint)
    file = YOLO(checkpoint).export(format="engine", imgsz=96, simplify=False, dsmoe_moe="gather", device=0)
    assert Path(file) == checkpoint.with_suffix(".onnx")
    assert "python -m ultra_dsmoe.export.engine best.onnx" in caplog.text
    assert read_onnx(Path(file)).metadata["dsmoe_moe"] == "gather"


def test_what_this_machine_lacks(install, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine_export, "find_spec", lambda name: None)
    assert engine_export.missing() == ["no TensorRT", "no NVIDIA GPU"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine_export.missing() == ["no TensorRT"]
    monkeypatch.setattr(engine_export, "find_spec", lambda name: name)
    assert engine_export.missing() == []


@pytest.mark.parametrize(
    ("kwargs", "precision"),
    [
        ({}, "fp32"),
        ({"half": True}, "fp16"),
        ({"int8": True, "half": True}, "int8"),
        ({"quantize": 8}, "int8"),
        ({"quantize": "FP16"}, "fp16"),
        ({"quantize": 32, "half": True}, "fp32"),
    ],
)
def test_precision_that_an_export_asks_for(kwargs: dict, precision: str) -> None:
    assert precision_of(kwargs) == precision
