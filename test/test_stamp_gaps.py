"""Missing images by the gaps in the stamps."""

from __future__ import annotations

import random

import pytest

from mixformerv2_ros.ros.live.stamp_gaps import StampGaps

PERIOD = 33_333_333


def missing(stamps: list[int]) -> int:
    gaps = StampGaps()
    return sum(gaps.add(stamp) for stamp in stamps)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_missing_images_are_counted_in_spite_of_jitter(share: float) -> None:
    chance = random.Random(3)
    stamps = [round(i * PERIOD + chance.gauss(0, PERIOD / 20)) for i in range(1000)]
    kept = [stamp for stamp in stamps if chance.random() >= share]
    assert missing(kept) == pytest.approx(1000 - len(kept), abs=25)


def test_a_rate_that_changes_is_followed() -> None:
    fast = [i * PERIOD for i in range(200)]
    slow = [fast[-1] + i * 2 * PERIOD for i in range(1, 200)]
    assert missing(fast) == 0
    assert missing([*fast, *slow]) < 60


def test_pauses_loops_and_stamps_that_stand_still_are_not_losses() -> None:
    fast = [i * PERIOD for i in range(30)]
    later = [10**12 + stamp for stamp in fast]
    assert missing([*fast, *later, *fast, *[0] * 30, *[2**63] * 3, *fast]) == 0
