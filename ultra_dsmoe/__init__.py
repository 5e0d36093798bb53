"""Industrial defect detectors as a plugin for stock Ultralytics.

Importing this package, by hand or through torch's entry points, puts the plugin into the host. It stays cheap: the
public names below are imported when they are first asked for.
"""

from typing import TYPE_CHECKING

from ultra_dsmoe.aliases import install as _install_aliases

if TYPE_CHECKING:
    from ultra_dsmoe.errors import ConfigError as ConfigError
    from ultra_dsmoe.errors import DSMoEError as DSMoEError
    from ultra_dsmoe.model.detector import DSMoEModel as DSMoEModel
    from ultra_dsmoe.nn.registry import RowContext as RowContext
    from ultra_dsmoe.nn.registry import RowPlan as RowPlan
    from ultra_dsmoe.nn.registry import register as register
    from ultra_dsmoe.train.trainer import DSMoETrainer as DSMoETrainer

__version__ = "0.1.0"

_PUBLIC = {
    "ConfigError": "ultra_dsmoe.errors",
    "DSMoEError": "ultra_dsmoe.errors",
    "DSMoEModel": "ultra_dsmoe.model.detector",
    "DSMoETrainer": "ultra_dsmoe.train.trainer",
    "RowContext": "ultra_dsmoe.nn.registry",
    "RowPlan": "ultra_dsmoe.nn.registry",
    "register": "ultra_dsmoe.nn.registry",
}


def _torch_autoload() -> None:
    """Put the plugin into the host; entry point that torch calls at the end of its import, and safe to call twice."""
    from ultra_dsmoe.plugin.boot import install

    install()


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ultra_dsmoe' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """List the public names too, so that completion finds them."""
    return sorted({*globals(), *_PUBLIC})


_install_aliases()  # also where the plugin is switched off: checkpoints still name our classes
_torch_autoload()
