"""Which images an epoch gets: all of a stage once, the same after a resume, shares of several processes."""

from __future__ import annotations

from collections import Counter

from ultra_dsmoe.data.stage_sampler import StageSampler, split_index


def test_an_epoch_has_each_image_of_the_stage_once_and_the_next_another_order() -> None:
    sampler = StageSampler(10, 4)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    sampler.begin([7, 3, 5], 2)
    assert sorted(sampler) == [3, 5, 7]
    assert len(sampler) == 3


def test_a_run_that_goes_on_gets_the_order_that_it_would_have_got() -> None:
    whole, resumed = StageSampler(10, 4, seed=3), StageSampler(10, 4, seed=3)
    orders = [list(whole) for _ in range(5)]
    resumed.begin(range(10), 3)
    assert [list(resumed), list(resumed)] == orders[3:]
    assert list(StageSampler(10, 4, seed=4)) != orders[0]


def test_a_last_batch_of_one_is_left_out() -> None:
    assert len(list(StageSampler(9, 4))) == 8
    assert len(list(StageSampler(9, 3))) == 9
    assert len(list(StageSampler(1, 4))) == 1  # else there would be none


def test_texts_alternate_within_an_epoch_and_are_exchanged_in_the_next() -> None:
    sampler = StageSampler(10, 4)
    sampler.begin(range(10), 0, alternate=True)
    first, second = ([split_index(i, 10) for i in sampler] for _ in range(2))
    assert [turn for _, turn in first] == [0] * 5 + [1] * 5
    assert [turn for _, turn in second] == [1] * 5 + [0] * 5
    assert sorted(image for image, _ in first) == list(range(10))


def test_processes_share_an_epoch() -> None:
    parts = [list(StageSampler(11, 2, rank=rank, world=2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1])
    assert max(Counter(parts[0] + parts[1]).values()) == 1
