"""What a user did behind an exception: said by ours, by the disk's error number, or by where Ultralytics gave up.

Ultralytics ends on wrong input with whatever exception comes first. Which of them a user has caused is told by three
general signs, not by a list of messages: a disk that refused, a function that reads what the user named, and a
``raise`` or ``assert`` that somebody wrote there on purpose. An exception with none of them is a fault of a program.
"""

from __future__ import annotations

import dis
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, WeightsError

TRACEBACK = "ULTRA_DSMOE_TRACEBACK"  # of the environment: set, errors keep their traceback
HOST, OURS = "ultralytics.", "ultra_dsmoe."
MATHEMATICS = ("ultra_dsmoe.nn.", "ultra_dsmoe.ops.", "ultra_dsmoe.losses.")  # no user is at fault in there
STOPPED = 130  # the shell's code for a command that was interrupted
MOST = 400  # characters of a message
_ANSI, _HELP = re.compile(r"\x1b\[[\d;]*m"), "Arguments received:"  # where the host's help page begins
_KEY = re.compile(r"(?:ERROR\W+)?'?(\w+)=")  # how most of its messages on an argument begin

# Functions that read what a user named, outermost first: module, function ("" for all of a module), argument, what is
# expected. Whatever goes wrong inside is about what is read.
READERS: tuple[tuple[str, str, type[DSMoEError], str, str], ...] = (
    ("ultralytics.engine.trainer", "get_dataset", DataError, "data", "a data set that Ultralytics can read"),
    ("ultralytics.data.utils", "check_det_dataset", DataError, "data", "a data set that Ultralytics can read"),
    ("ultralytics.data.build", "build_yolo_dataset", DataError, "data", "images and labels that can be read"),
    ("ultralytics.data.dataset", "collate_fn", DataError, "data", "images of one number of channels"),
    ("ultralytics.data.build", "load_inference_source", DataError, "source", "images or videos that can be read"),
    ("ultralytics.nn.tasks", "torch_safe_load", WeightsError, "model", "a checkpoint that can be read"),
    ("ultralytics.nn.tasks", "yaml_model_load", ConfigError, "model YAML", "a file that can be read"),
    ("ultralytics.nn.tasks", "__init__", ConfigError, "model YAML", "rows that can be built and fit together"),
    ("ultralytics.nn.autobackend", "__init__", WeightsError, "model", "a file that its runtime can load"),
    ("ultralytics.engine.trainer", "check_resume", WeightsError, "resume", "a checkpoint of an unfinished training"),
    ("ultralytics.utils.checks", "check_yaml", ConfigError, "cfg", "a YAML file that can be read"),
    ("ultralytics.utils", "load", ConfigError, "YAML", "a file that can be read"),
)
# Error numbers of a disk or a place on it -> what was expected of it.
DISK: dict[int, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "a disk with room for what is written"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "a place that this user may read and write"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a folder"),
    **dict.fromkeys((errno.ENOENT, errno.EISDIR), "an existing file"),
    errno.ENAMETOOLONG: "a shorter name",
}
MAKERS = ("mkdir", "makedirs")  # functions that make folders


def user_error(error: BaseException | None) -> DSMoEError | None:
    """Return the user error in ``error`` or among those it was raised from, None where there is none."""
    while error is not None:
        if isinstance(error, DSMoEError):
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def cause(error: BaseException) -> DSMoEError | None:
    """Return what a user did to cause ``error``, None where a program is at fault."""
    if found := user_error(error):
        return found
    stack = list(_stack(error.__traceback__))
    if found := _of_the_disk(error, stack) or _of_a_library(error):
        return found
    return _of_a_reader(error, stack) or _said_on_purpose(error, stack)


def _stack(traceback: TracebackType | None) -> Iterator[tuple[str, TracebackType]]:
    """Yield the entries of a traceback, outermost first, each with its module's name."""
    while traceback is not None:
        yield _module(traceback.tb_frame), traceback
        traceback = traceback.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _of_the_disk(error: BaseException, stack: list[tuple[str, TracebackType]]) -> DSMoEError | None:
    """Return the error of a disk, or of a place on it, that refused."""
    if not isinstance(error, OSError) or error.errno not in DISK:
        return None
    place, expected = error.filename2 or error.filename, DISK[error.errno]
    if error.errno == errno.ENOENT and stack and stack[-1][1].tb_frame.f_code.co_name in MAKERS:
        expected = "a place where a folder can be made"  # as in /proc: the one above is there, and takes none
    return ConfigError(str(place or "disk"), expected, error.strerror or type(error).__name__)


def _of_a_library(error: BaseException) -> DSMoEError | None:
    """Return the error of a library that is not installed, such as that of an export's format."""
    name = str(error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return ConfigError(name, "an installed package", str(error)) if name and f"{name}." not in (HOST, OURS) else None


def _of_a_reader(error: BaseException, stack: list[tuple[str, TracebackType]]) -> DSMoEError | None:
    """Return the error of what one of `READERS` was reading, unless our own code broke in there."""
    if not stack or stack[-1][0].startswith(OURS):
        return None
    for name, entry in stack:
        for module, function, kind, argument, expected in READERS:
            if name == module and entry.tb_frame.f_code.co_name == function:
                return kind(argument, expected, words(error, is_plain=_is_raise(stack[-1][1])))
    return None


def _said_on_purpose(error: BaseException, stack: list[tuple[str, TracebackType]]) -> DSMoEError | None:
    """Return what the host's own ``raise`` or ``assert`` says."""
    if not (stack and stack[-1][0].startswith(HOST) and _is_raise(stack[-1][1])):
        return None
    if any(name.startswith(MATHEMATICS) for name, _ in stack):
        return None
    said = words(error, is_plain=True)
    key = _KEY.match(said)
    return ConfigError(key[1] if key else "command", "what Ultralytics accepts", said)


def _is_raise(entry: TracebackType) -> bool:
    """Whether a statement that raises ended here, rather than an expression that failed."""
    code = entry.tb_frame.f_code.co_code
    return dis.opname[code[entry.tb_lasti]] == "RAISE_VARARGS"


def words(error: BaseException, is_plain: bool = True) -> str:
    """Return an exception's message in one line, behind its type unless it speaks for itself."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    said = " ".join(_ANSI.sub("", str(text)).partition(_HELP)[0].split())
    said = said if len(said) <= MOST else f"{said[:MOST]}..."
    return said if said and is_plain else f"{type(error).__name__}{said and ': '}{said}"


@contextmanager
def reading(argument: str, expected: str, kind: type[DSMoEError] = DataError, file: object = None) -> Iterator[None]:
    """Turn whatever the host raises while it reads what a user named into one of our errors.

    Args:
        argument: Under which name it was given.
        expected: What would have been accepted.
        kind: Class of the error.
        file: What is read, where the host's own words may not name it.
    """
    try:
        yield
    except DSMoEError:
        raise
    except Exception as e:  # of any kind: the host ends on wrong input with whatever comes first
        stack = list(_stack(e.__traceback__))
        if stack[-1][0].startswith(OURS):
            raise
        said = words(e, is_plain=file is None and _is_raise(stack[-1][1]))
        raise kind(argument, expected, said if file is None else f"{file} ({said})") from e


@contextmanager
def one_line_errors(
    find: Callable[[BaseException], DSMoEError | None] = cause,
    ours: Callable[[BaseException], bool] = lambda error: True,
) -> Iterator[None]:
    """Turn user errors into one line on stderr and exit code 1, and Ctrl-C into one line and the shell's code for it.

    With `TRACEBACK` in the environment into nothing.

    Args:
        find: Returns the user error behind an exception, None for one that goes on unchanged.
        ours: Whether a command that Ctrl-C ended was one of ours; others go on unchanged.
    """
    try:
        yield
    except KeyboardInterrupt as e:
        if os.environ.get(TRACEBACK, "0") not in ("", "0") or not ours(e):
            raise
        print("stopped", file=sys.stderr, flush=True)
        raise SystemExit(STOPPED) from e
    except Exception as e:  # whatever a user can cause; anything else goes on
        if os.environ.get(TRACEBACK, "0") not in ("", "0") or (error := find(e)) is None:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from e
