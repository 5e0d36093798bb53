"""Phases of a classifier's training: the paper's numbers, short trainings, variants, and what each phase's pace is."""

from __future__ import annotations

import pytest

from ultra_dsmoe.model.pair_options import PairOptions
from ultra_dsmoe.nn.head.pair_classify import ALIGNMENT, FUSION, WARM_UP
from ultra_dsmoe.train.pair_schedule import Stage, position, stage_at, stages


def test_the_papers_165_epochs() -> None:
    assert stages(165, PairOptions()) == [
        Stage(WARM_UP, 0, 1.0, 0, 30),
        *(Stage(ALIGNMENT, j + 1, (j + 1) / 5, 30 + 15 * j, 15) for j in range(5)),
        Stage(FUSION, 0, 1.0, 105, 60),
    ]


@pytest.mark.parametrize("epochs", range(1, 40))
@pytest.mark.parametrize("pfa", ["progressive", "direct", "none"])
def test_any_number_of_epochs_is_covered_once_and_ends_with_fusion(epochs: int, pfa: str) -> None:
    plan = stages(epochs, PairOptions(pfa=pfa))
    covered = [e for stage in plan for e in range(stage.first, stage.first + stage.epochs)]
    assert covered == list(range(epochs))
    assert plan[-1].phase == FUSION
    order = [WARM_UP, ALIGNMENT, FUSION]
    assert [stage.phase for stage in plan] == sorted((stage.phase for stage in plan), key=order.index)


def test_few_epochs_of_alignment_are_for_its_last_stages() -> None:
    plan = stages(7, PairOptions())
    assert [(s.phase, s.number, s.epochs) for s in plan] == [
        (WARM_UP, 0, 1),
        (ALIGNMENT, 2, 1),
        (ALIGNMENT, 4, 1),
        (ALIGNMENT, 5, 1),
        (FUSION, 0, 3),
    ]


def test_without_alignment_the_warm_up_is_as_long_as_both() -> None:
    plan = stages(165, PairOptions(pfa="none"))
    assert [(s.phase, s.epochs) for s in plan] == [(WARM_UP, 105), (FUSION, 60)]


def test_direct_alignment_has_one_stage_of_all_images() -> None:
    (_, stage, _) = stages(165, PairOptions(pfa="direct"))
    assert (stage.phase, stage.share, stage.epochs) == (ALIGNMENT, 1.0, 75)


def test_the_learning_rate_starts_anew_in_each_phase_but_not_in_each_stage() -> None:
    plan = stages(165, PairOptions())
    assert [position(plan, e) for e in (0, 15, 30, 45, 105, 135, 165)] == [0, 0.5, 0, 0.2, 0, 0.5, 1]


def test_epochs_behind_the_last_belong_to_it() -> None:
    plan = stages(10, PairOptions())
    assert stage_at(plan, 99) == plan[-1]
