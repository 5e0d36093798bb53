"""What the plugin adds to importing torch and the host: ``python benchmarks/import_overhead.py [runs]``.

Two figures each. The processor time spent in the plugin: importing its first modules, looking at every import that
follows, and changing the host's modules; the least of all runs, since other processes can only add to it. And the wall
clock of whole processes with and without it, taken in turn, as a check: medians, whose noise is usually larger than the
difference.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

IMPORTS = {
    "import torch": "import torch",
    "import ultralytics": "import ultralytics",
    "from ultralytics import YOLO": "from ultralytics import YOLO",
}
# Wraps the two ways in which the plugin gets control, before anything can call them.
TIMED = """
import time, sys
spent = [0.0]
start = time.thread_time()
import ultra_dsmoe.plugin.boot as boot
spent[0] += time.thread_time() - start
stock_fire = boot.fire
def fire(name, module):
    start = time.thread_time()
    stock_fire(name, module)
    spent[0] += time.thread_time() - start
boot.fire = fire
find = boot._Finder.find_spec.__func__
def find_spec(cls, name, path=None, target=None):
    start = time.thread_time()
    spec = find(cls, name, path, target)
    if spec is None:  # else the ordinary finders' work, needed anyway
        spent[0] += time.thread_time() - start
    return spec
boot._Finder.find_spec = classmethod(find_spec)
{statement}
print(spent[0] * 1e3)
"""


def run(code: str, *, plugin: bool) -> tuple[float, str]:
    """Run ``code`` in a fresh process; return its wall clock in seconds and what it printed."""
    env = {**os.environ, "ULTRA_DSMOE_DISABLE": "" if plugin else "1"}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    """Print one line per import."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{'statement':<30}{'in the plugin, ms':>20}{'wall with, s':>15}{'without, s':>12}   ({runs} runs)")
    for name, statement in IMPORTS.items():
        own, on, off = [], [], []
        for _ in range(runs):
            own.append(float(run(TIMED.format(statement=statement), plugin=True)[1].split()[-1]))
            on.append(run(statement, plugin=True)[0])
            off.append(run(statement, plugin=False)[0])
        own_ms, with_s, without_s = min(own), statistics.median(on), statistics.median(off)
        print(f"{name:<30}{own_ms:>20.2f}{with_s:>15.3f}{without_s:>12.3f}")


if __name__ == "__main__":
    main()
