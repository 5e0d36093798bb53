"""Which level of the student learns from which of the teacher: those of equal stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ultra_dsmoe.errors import ConfigError


class Level(NamedTuple):
    """A pair of levels.

    Attributes:
        stride: Pixels per cell of both.
        student: Position among the maps that the student's detectors read.
        teacher: Position among the teacher's.
    """

    stride: int
    student: int
    teacher: int


def match_levels(
    student_strides: Sequence[float],
    teacher_strides: Sequence[float],
    wanted: Sequence[int] | None = None,
    same: bool = False,
) -> list[Level]:
    """Pair the levels of equal stride, finest first.

    Args:
        student_strides: Strides of the student's detectors.
        teacher_strides: Strides of the teacher's.
        wanted: Strides to use; None takes all that both have.
        same: Whether both must have the same.

    Raises:
        ConfigError: If a wanted stride is missing in one of them, none is common, or not all are that must be.
    """
    student, teacher = [int(s) for s in student_strides], [int(s) for s in teacher_strides]
    common = sorted(set(student) & set(teacher))
    if same and student != teacher:
        expected = f"a teacher of the student's strides ({_listed(student)})"
        raise ConfigError("distill_model", expected, _listed(teacher))
    if not common:
        raise ConfigError("distill_model", f"a teacher with a level of stride {_listed(student)}", _listed(teacher))
    if wanted is not None and (missing := [s for s in wanted if s not in common]):
        raise ConfigError("dsmoe_kd levels", f"strides that both nets have ({_listed(common)})", _listed(missing))
    chosen = common if wanted is None else sorted(set(wanted))
    return [Level(s, student.index(s), teacher.index(s)) for s in chosen]


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))
