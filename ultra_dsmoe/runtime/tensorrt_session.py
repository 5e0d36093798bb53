"""A TensorRT engine on the first GPU, fed from numpy through the NVIDIA driver: no torch, no CUDA package.

Uses what TensorRT 8.5 to 10 have in common: named tensors and ``execute_v2``. Not run on a GTX 1080 yet.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.errors import ConfigError, ShapeError, WeightsError
from ultra_dsmoe.runtime.model_file import TENSORRT_KEY


class Cuda:
    """Memory on the first GPU by the driver's own library, which every machine with a GPU has.

    TensorRT computes in the primary context of the GPU, so that is the one made current here.
    """

    def __init__(self) -> None:
        """Open the driver.

        Raises:
            ConfigError: If there is no driver or no GPU.
        """
        name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
        try:
            self._driver: Any = ctypes.CDLL(name)
        except OSError as e:
            raise ConfigError("engine", "a machine with an NVIDIA driver", f"none ({e})") from e
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            raise ConfigError("engine", "a working NVIDIA GPU", f"error {code} of {name}")

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` new bytes."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the GPU."""
        source = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))

    def read(self, array: np.ndarray, address: int) -> None:
        """Fill a contiguous array from the GPU."""
        target = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))


class TensorRTSession:
    """An engine and its memory. To be used from the thread that made it."""

    def __init__(self, path: Path, engine: bytes, metadata: dict[str, Any]) -> None:
        """Load an engine.

        Args:
            path: Of its file, for errors.
            engine: The serialized engine.
            metadata: Of its file.

        Raises:
            ConfigError: If TensorRT or a GPU is missing.
            WeightsError: If TensorRT refuses the engine.
            ShapeError: If it is no network with one input.
        """
        try:
            import tensorrt
        except ImportError as e:
            raise ConfigError("tensorrt", "an installed TensorRT, to run .engine files", str(e)) from e
        self._cuda = Cuda()
        self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            expected = f"an engine of TensorRT {tensorrt.__version__} for this GPU"
            origin = f" of TensorRT {metadata[TENSORRT_KEY]}" if TENSORRT_KEY in metadata else ""
            came = f"one{origin} that does not load: build it here from the .onnx file"
            raise WeightsError(str(path), expected, came)
        self._context = self._engine.create_execution_context()
        self._names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {n: self._engine.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT for n in self._names}
        inputs = [n for n in self._names if modes[n]]
        outputs = sorted(n for n in self._names if not modes[n])
        if len(inputs) != 1 or not outputs:
            raise ShapeError(str(path), "an engine with one input", f"{len(inputs)}")
        self._input, self._output = inputs[0], outputs[0]
        self._dtypes = {n: np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(n))) for n in self._names}
        self.dtype = self._dtypes[self._input]
        self.input_shape = tuple(None if n < 0 else int(n) for n in self._engine.get_tensor_shape(self._input))
        self._memory: dict[str, tuple[int, int]] = {}  # tensor to address and size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the first output for images (B, C, H, W).

        Raises:
            ShapeError: If they are outside what the engine was built for.
            ConfigError: If the engine fails.
        """
        images = np.ascontiguousarray(images, dtype=self.dtype)
        if None in self.input_shape and not self._context.set_input_shape(self._input, images.shape):
            raise ShapeError("images", "a shape that the engine was built for", images.shape)
        arrays = {n: np.empty(tuple(self._context.get_tensor_shape(n)), self._dtypes[n]) for n in self._names}
        if arrays[self._input].shape != images.shape:
            raise ShapeError("images", f"the engine's {arrays[self._input].shape}", images.shape)
        addresses = {n: self._reserve(n, array.nbytes) for n, array in arrays.items()}
        self._cuda.write(addresses[self._input], images)
        if not self._context.execute_v2([addresses[n] for n in self._names]):
            raise ConfigError("engine", "a run without error", "a failure that TensorRT has reported above")
        self._cuda.read(arrays[self._output], addresses[self._output])
        return arrays[self._output]

    def _reserve(self, name: str, size: int) -> int:
        """Return the address of at least ``size`` bytes for a tensor."""
        address, held = self._memory.get(name, (0, 0))
        if held < size:
            if held:
                self._cuda.free(address)
            address = self._cuda.allocate(size)
            self._memory[name] = (address, size)
        return address
