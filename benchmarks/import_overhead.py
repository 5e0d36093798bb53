"""What the plugin adds to importing torch and the host: ``python benchmarks/import_overhead.py [runs]``.

The plugin's own share is the processor time of everything that it runs: importing its modules, changing the host's, and
looking at the name of every import that follows. Its smallest value is what the plugin needs, its median what a busy
machine makes of it. Twice: from a compiled copy of the package, as pip installs it, and from sources alone, as where
``PYTHONDONTWRITEBYTECODE`` keeps a checkout from being compiled; there most of the time goes to the compiler.

As a check, the processor time of whole processes with the plugin and without, taken in turn. Their difference is a
thousandth of what is measured, so it says something over many runs on an idle machine only. It leaves out that torch
asks every installed distribution for backends: one more costs it about 0.1 ms, switched off or not.
"""

from __future__ import annotations

import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ultra_dsmoe"
IMPORTS = {
    "import torch": "import torch",
    "import ultralytics": "import ultralytics",
    "from ultralytics import YOLO": "from ultralytics import YOLO",
}
# Times the ways in which the plugin gets control. torch loads the package itself, so this runs as torch's last step
# would: with the package not yet imported, and everything that torch imports there already. The finder is called for
# each of a thousand imports, where a clock around it would cost more than it does: its calls are repeated at the end.
TIMED = """
import os, sys, time
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
import torch
clock, spent, seen = time.thread_time, [], []
start = clock()
import ultra_dsmoe
spent.append(clock() - start)
from ultra_dsmoe.plugin import boot
stock_fire = boot.fire
def fire(name, module):
    start = clock()
    stock_fire(name, module)
    spent.append(clock() - start)
boot.fire = fire
class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in boot.TARGETS and not name.startswith("ultra_dsmoe"):
            seen.append((name, path))
sys.meta_path.insert(0, Watch)
{statement}
start = clock()
for name, path in seen:
    boot._Finder.find_spec(name, path)
spent.append(clock() - start)
print(ultra_dsmoe.__file__, sum(spent) * 1e3)
"""
CPU_SECONDS = "\nimport resource; print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))"


def run(code: str, folder: Path, *, plugin: bool = True) -> list[str]:
    """Run ``code`` in a fresh process with the package from ``folder``; return the words of its last line."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    env["ULTRA_DSMOE_DISABLE"] = "" if plugin else "1"
    command = [sys.executable, "-c", code]  # which looks in the current folder first
    done = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1].split()


def own_ms(statement: str, folder: Path) -> float:
    """Return the processor time in ms that the plugin in ``folder`` takes of ``statement``."""
    file, spent = run(TIMED.format(statement=statement), folder)
    if Path(file).parent.parent != folder:
        raise SystemExit(f"{file} was measured instead of the copy in {folder}")
    return float(spent)


def copies(folder: Path) -> tuple[Path, Path]:
    """Put a compiled copy of the package and one of sources alone below ``folder``."""
    compiled, sources = folder / "compiled", folder / "sources"
    for place in (compiled, sources):
        shutil.copytree(PACKAGE, place / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(compiled, quiet=1)
    return compiled, sources


def main() -> None:
    """Print one line per import, all times in ms: smallest / median."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{'processor ms: min / median':<30}{'compiled':>16}{'sources':>16}{'all, with':>18}{'without':>18}")
    with tempfile.TemporaryDirectory() as folder:
        compiled, sources = copies(Path(folder).resolve())
        for name, statement in IMPORTS.items():
            taken: list[tuple[float, ...]] = []
            for _ in range(runs):
                own = [own_ms(statement, place) for place in (compiled, sources)]
                whole = [run(statement + CPU_SECONDS, compiled, plugin=plugin) for plugin in (True, False)]
                taken.append((*own, *(float(words[-1]) * 1e3 for words in whole)))
            cells = [(min(column), statistics.median(column)) for column in zip(*taken, strict=True)]
            shown = [f"{a:.2f} / {b:.2f}" for a, b in cells[:2]] + [f"{a:.0f} / {b:.0f}" for a, b in cells[2:]]
            print(f"{name:<30}{shown[0]:>16}{shown[1]:>16}{shown[2]:>18}{shown[3]:>18}")
    print(f"{runs} runs, taken in turn")


if __name__ == "__main__":
    main()
