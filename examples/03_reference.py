"""Compare parts with a good one, without torch: `python examples/03_reference.py best.onnx golden.png board.jpg ...`.

Needs numpy, opencv-python and onnxruntime (TensorRT for an .engine file); exits with 2 where one shows another part.
"""

from __future__ import annotations

import sys

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.runtime.detector import Runtime

OTHER_PART = 2  # exit code
try:
    model, golden, *pictures = sys.argv[1:]
except ValueError:
    sys.exit(__doc__)
others = 0
try:
    runtime = Runtime(model)
    for path in pictures:
        found = runtime.predict(path, reference=golden, conf=0.25)
        state, mismatch = found.reference.state, found.reference.mismatch
        if found.other_product:
            others += 1
            print(f"{path}: not the part of {golden}? mismatch {mismatch:.2f} above {runtime.limit:.2f}")
            continue
        if state != "ok":  # it could not be laid on the picture, so that nothing was compared
            print(f"{path}: reference {state}, looked at alone")
        for d in found:
            left, top, right, bottom = (round(v) for v in d.box_xyxy_px)
            print(f"{path}: {d.name} {d.score:.2f} at {left},{top} to {right},{bottom} (mismatch {mismatch:.2f})")
except DSMoEError as error:
    sys.exit(f"error: {error}")
sys.exit(OTHER_PART if others else 0)
