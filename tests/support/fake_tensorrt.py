"""A stand-in for TensorRT's Python API and NVIDIA's driver that records our calls, as of 8.6 and as of 10.

Its "engine" is the ONNX file behind a line with the version, and its GPU is this process's memory, so that an engine
can be run through everything of ours. No GPU was at hand; nothing here shows that a real TensorRT builds the network.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

VERSIONS = ("8.6.1", "10.3.0")


class FakeTensorRT(ModuleType):
    """The part of TensorRT's Python API that we call; attributes differ between 8.6, 10 and 11 as in its headers."""

    def __init__(self, version: str, *, fast: bool = True, gpu: bool = True, faults: tuple[str, ...] = ()) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.major = int(version.split(".")[0])
        self.calls: list[tuple[Any, ...]] = []
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
        self.held: dict[int, ctypes.Array[Any]] = {}
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
