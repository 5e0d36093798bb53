"""Find defects without torch: `python examples/02_runtime.py best.onnx board.jpg ...`.

Needs numpy, opencv-python and onnxruntime (TensorRT for an .engine file); writes `found-<name>` per picture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.runtime.detector import Runtime

RED = (0, 0, 255)
try:
    runtime = Runtime(sys.argv[1] if len(sys.argv) > 1 else "best.onnx")
    for path in sys.argv[2:]:
        found = runtime.predict(path, conf=0.25)
        image = cv2.imread(path)
        for d in found:
            left, top, right, bottom = (round(v) for v in d.box_xyxy_px)
            print(f"{path}: {d.name} {d.score:.2f} at {left},{top} to {right},{bottom}")
            cv2.rectangle(image, (left, top), (right, bottom), RED, 2)
            cv2.putText(image, f"{d.name} {d.score:.2f}", (left, top), cv2.FONT_HERSHEY_SIMPLEX, 0.5, RED)
        cv2.imwrite(f"found-{Path(path).name}", image)
except DSMoEError as error:
    sys.exit(f"error: {error}")
