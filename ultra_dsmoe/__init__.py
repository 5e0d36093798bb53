"""Industrial defect detectors as a plugin for stock Ultralytics."""

__version__ = "0.1.0"


def _torch_autoload() -> None:
    """Entry point that torch calls at the end of its import."""
