"""Former names: what the warning says, and how often."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from ultra_dsmoe.deprecations import Former


def test_the_warning_names_both_and_the_version() -> None:
    said = r"^'old' is called 'new' now; .* is gone from version 9\.0 on$"
    with pytest.warns(DeprecationWarning, match=said) as caught:
        Former("new", goes="9.0").warn("old")
    assert caught[0].filename == __file__


def test_it_is_shown_once_per_name() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for name in ("old", "old", "older"):
            Former("new", goes="9.0").warn(name)
    assert len(shown) == 2


def test_former_modules_warn_where_an_import_names_them_and_not_when_a_checkpoint_does() -> None:
    code = (
        "import pickle, warnings\n"
        "warnings.simplefilter('error', DeprecationWarning)\n"
        "import ultra_dsmoe\n"
        "assert pickle.loads(b'cultra_dsmoe.nn.neck.cbam\\nCBAM\\n.').__name__ == 'CBAM'\n"
        "warnings.simplefilter('always', DeprecationWarning)\n"
        "from ultra_dsmoe.train.model import DSMoEModel\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if "DeprecationWarning: 'ultra_dsmoe" in line]
    assert len(said) == 1
    assert said[0].startswith("<string>:6: ")
    assert "'ultra_dsmoe.train.model' is called 'ultra_dsmoe.model.detector' now" in said[0]
