"""Targets and their states over frames."""

from __future__ import annotations

import pytest
from recordings import published_settings
from test_tracker import Oracle, scene

from mixformerv2_ros.errors import BoxError
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.session import Session, State, StateMachine

SPEC = ModelSpec("custom", 64, 1, 1, 1.0, 64, 64, 128)
SECOND = 1_000_000_000
SETTINGS = published_settings(
    uncertain_threshold=0.5, uncertain_duration=0.2, lost_threshold=0.3, lost_duration=0.5
)


def frame(step=0, x=50, y=40):
    return Frame(scene(x, y), stamp_ns=step * SECOND // 10, frame_id="camera")


def states(confidences, settings=SETTINGS):
    machine = StateMachine()
    return [
        machine.update(confidence, step * SECOND // 10, settings).name
        for step, confidence in enumerate(confidences)
    ]


def test_a_short_doubt_changes_nothing():
    assert set(states([0.9, 0.4, 0.4, 0.9, 0.4, 0.9])) == {"TRACKING"}


def test_a_long_doubt_is_uncertain_and_ends_at_once():
    assert states([0.9, 0.4, 0.4, 0.4, 0.9]) == [
        "TRACKING", "TRACKING", "TRACKING", "UNCERTAIN", "TRACKING",
    ]  # fmt: skip


def test_a_target_gets_lost_only_after_the_whole_duration():
    assert states([0.9] + [0.1] * 6) == [
        "TRACKING", "TRACKING", "TRACKING", "UNCERTAIN", "UNCERTAIN", "UNCERTAIN", "LOST",
    ]  # fmt: skip


def test_a_lost_target_is_not_found_by_middling_confidence():
    assert states([0.1] * 6 + [0.4] * 5 + [0.6])[5:] == ["LOST"] * 6 + ["TRACKING"]


def test_zero_durations_act_at_once():
    settings = published_settings(
        uncertain_threshold=0.5, uncertain_duration=0, lost_threshold=0.3, lost_duration=0
    )
    assert states([0.9, 0.4, 0.1, 0.9], settings) == ["TRACKING", "UNCERTAIN", "LOST", "TRACKING"]


def test_zero_thresholds_leave_the_reference_protocol():
    settings = published_settings(uncertain_threshold=0, lost_threshold=0)
    assert set(states([0.0] * 20, settings)) == {"TRACKING"}


def test_tracks_carry_the_image_header():
    session = Session(Oracle(SPEC), SETTINGS)
    first = session.start(frame(3), Box(50, 40, 20, 30), "dog")
    assert (first.stamp_ns, first.frame_id, first.target_id) == (3 * SECOND // 10, "camera", "dog")
    assert first.confidence == 1
    assert first.state is State.TRACKING
    (track,) = session.update(frame(4))
    assert (track.stamp_ns, track.frame_id, track.target_id) == (4 * SECOND // 10, "camera", "dog")
    assert track.template_age_ns == SECOND // 10
    assert iou(track.box, Box(50, 40, 20, 30)) > 0.9


def test_several_targets_are_followed_by_one_engine_call():
    engine = Oracle(SPEC)
    session = Session(engine, SETTINGS)
    session.start(frame(0), Box(50, 40, 20, 30), "a")
    session.start(frame(0), Box(52, 42, 20, 30), "b")
    tracks = session.update(frame(1))
    assert [track.target_id for track in tracks] == ["a", "b"]
    assert engine.calls == 1
    session.stop("a")
    assert session.targets == ("b",)
    session.stop("nobody")
    session.stop()
    assert session.update(frame(2)) == []


def test_a_refused_box_leaves_other_targets_alone():
    session = Session(Oracle(SPEC), SETTINGS)
    session.start(frame(0), Box(50, 40, 20, 30), "a")
    with pytest.raises(BoxError):
        session.start(frame(0), Box(50, 40, -1, 30), "a")
    assert session.targets == ("a",)
    assert len(session.update(frame(1))) == 1


def test_templates_rest_while_the_target_is_not_tracking():
    settings = published_settings(
        update_interval=2, uncertain_threshold=0.5, lost_threshold=0.3, lost_duration=10
    )
    session = Session(Oracle(SPEC, scores=(0.9, 0.9, 0.4, 0.4, 0.4, 0.4, 0.9)), settings)
    session.start(frame(0), Box(50, 40, 20, 30))
    updated = [session.update(frame(step))[0].template_updated for step in range(1, 8)]
    assert updated == [False, True, False, False, False, False, True]


def test_new_settings_hold_from_the_next_frame():
    session = Session(Oracle(SPEC), published_settings(update_interval=1000))
    session.start(frame(0), Box(50, 40, 20, 30))
    assert not session.update(frame(1))[0].template_updated
    session.settings = published_settings(update_interval=1)
    assert session.update(frame(2))[0].template_updated


def test_time_stepping_back_is_survived():
    session = Session(Oracle(SPEC), SETTINGS)
    session.start(frame(50), Box(50, 40, 20, 30))
    (track,) = session.update(frame(3))
    assert track.template_age_ns == 0
