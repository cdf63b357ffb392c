"""Quality of service without a middleware."""

from __future__ import annotations

import pytest

from mixformerv2_ros.ros.qos import (
    Durability,
    QosProfile,
    Reliability,
    choose_reliability,
    compatible,
    incompatible_publisher,
    incompatible_subscription,
    initial_reliability,
)

RELIABLE, BEST_EFFORT = Reliability.RELIABLE, Reliability.BEST_EFFORT
VOLATILE, LATCHED = Durability.VOLATILE, Durability.TRANSIENT_LOCAL


@pytest.mark.parametrize(
    ("offered", "requested", "matches"),
    [
        ((RELIABLE, VOLATILE), (RELIABLE, VOLATILE), True),
        ((RELIABLE, VOLATILE), (BEST_EFFORT, VOLATILE), True),
        ((BEST_EFFORT, VOLATILE), (RELIABLE, VOLATILE), False),
        ((BEST_EFFORT, VOLATILE), (BEST_EFFORT, VOLATILE), True),
        ((RELIABLE, LATCHED), (RELIABLE, VOLATILE), True),
        ((RELIABLE, VOLATILE), (RELIABLE, LATCHED), False),
        ((RELIABLE, LATCHED), (BEST_EFFORT, LATCHED), True),
    ],
)
def test_compatibility_is_that_of_dds(offered, requested, matches):
    assert compatible(QosProfile(*offered), QosProfile(*requested)) is matches


@pytest.mark.parametrize("current", [RELIABLE, BEST_EFFORT])
def test_auto_follows_the_publishers(current):
    assert choose_reliability([], current) is current
    assert choose_reliability([RELIABLE, RELIABLE], current) is RELIABLE
    assert choose_reliability([RELIABLE, BEST_EFFORT], current) is BEST_EFFORT


def test_the_chosen_reliability_matches_every_publisher():
    for offers in ([RELIABLE], [BEST_EFFORT], [RELIABLE, BEST_EFFORT]):
        chosen = QosProfile(choose_reliability(offers, RELIABLE))
        assert all(compatible(QosProfile(offer), chosen) for offer in offers)


def test_a_subscription_starts_reliable_unless_told_otherwise():
    assert initial_reliability("auto") is RELIABLE
    assert initial_reliability("reliable") is RELIABLE
    assert initial_reliability("sensor_data") is BEST_EFFORT


def test_warnings_name_only_those_that_do_not_match():
    offers = [QosProfile(BEST_EFFORT), QosProfile(RELIABLE, LATCHED)]
    assert incompatible_publisher("/image", offers, QosProfile(RELIABLE)) == (
        "incompatible QoS on /image: a publisher offers best effort, volatile, this subscription "
        "requests reliable, volatile; no messages will be received from it"
    )
    requests = [QosProfile(RELIABLE, LATCHED), QosProfile(BEST_EFFORT)]
    assert incompatible_subscription("/track", requests, QosProfile(RELIABLE)) == (
        "incompatible QoS on /track: a subscription requests reliable, transient local, this "
        "publisher offers reliable, volatile; no messages will be sent to it"
    )


def test_an_unlisted_reason_is_named_as_such():
    line = incompatible_publisher("/image", [QosProfile(RELIABLE)], QosProfile(RELIABLE))
    assert "offers another deadline or liveliness" in line
