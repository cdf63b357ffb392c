"""Tracks, bearings and poses extrapolated to the time of publication."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from domains import own_domain
from nodes import Node, box_of, frame_stamp, image, init_box
from ranging import BOX, TYPES, K, camera_info, depth_image, track
from recordings import BOX_TEXT, PERIOD_NS, RedEngine, red_box, run_command, storage_file, write_bag
from waiting import wait_for

from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.ros.live.live_target_pose import LiveTargetPose
from mixformerv2_ros.ros.messages import Level, stamp_ns, track_message
from mixformerv2_ros.ros.topics import (
    BEARING,
    BEARING_ANGLES,
    INITS,
    OUTPUTS,
    TARGET_POSE,
    TARGET_POSE_WITH_COVARIANCE,
    TRACK_PREDICTED,
)
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.prediction import (
    ConstantVelocity,
    PredictionSettings,
    TrackPredictor,
)
from mixformerv2_ros.tracking.session import State, Track

MS = 1_000_000
S = 1000 * MS
SETTINGS = PredictionSettings()


# The filter


def test_a_steady_motion_is_continued_and_the_covariance_grows() -> None:
    moving = ConstantVelocity(np.zeros(2), np.eye(2) * 1e-4, 0, 5.0)
    for i in range(1, 40):
        moving.update(np.array([0.3 * i, -0.1 * i]), np.eye(2) * 1e-4, i * 100 * MS, 0.1)
    sizes = []
    for ahead in (0, 100, 200, 400):
        position, covariance = moving.at((3900 + ahead) * MS, 0.1)
        expected = np.array([3.0, -1.0]) * (3.9 + ahead / 1000)
        assert position == pytest.approx(expected, abs=0.02)
        assert np.allclose(covariance, covariance.T)
        sizes.append(covariance[0, 0])
    assert sizes == sorted(sizes)
    assert sizes[-1] > 10 * sizes[0]


def test_the_covariance_is_that_of_the_errors() -> None:
    """Motion and noise as the filter assumes them: squared errors over variances average 1."""
    random = np.random.default_rng(5)
    ratios = []
    for _ in range(300):
        q, r, dt, velocity, place = 2.0, 0.3, 0.1, random.normal(0, 5.0), 0.0
        moving = None
        for i in range(12):
            seen = np.array([place + random.normal(0, r)])
            if moving is None:
                moving = ConstantVelocity(seen, np.eye(1) * r**2, 0, 5.0)
            else:
                moving.update(seen, np.eye(1) * r**2, i * 100 * MS, q)
            noise = random.multivariate_normal(
                [0, 0], q**2 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
            )
            place, velocity = place + velocity * dt + noise[0], velocity + noise[1]
        assert moving is not None
        predicted, covariance = moving.at(1200 * MS, q)
        ratios.append(float((predicted[0] - place) ** 2 / covariance[0, 0]))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.25)


# Tracks


def moved(i: int, **changes: Any) -> Track:
    """A target at 100 px/s to the right that grows by 20 px/s, with its exact edges."""
    box = Box(300 + 10 * i, 200, 40 + 2 * i, 80)
    return replace(track(box, stamp=S + i * 100 * MS, edge_std=(0.5,) * 4), **changes)


def fed(predictor: TrackPredictor, count: int = 20) -> Track:
    for i in range(count):
        predictor.update([moved(i)], SETTINGS)
    return moved(count - 1)


def test_a_track_is_extrapolated() -> None:
    predictor = TrackPredictor()
    last = fed(predictor)
    now = last.stamp_ns + 100 * MS
    predicted = predictor.predicted(last, now, SETTINGS)
    assert predicted is not None
    assert predicted.box == pytest.approx(moved(20).box, abs=1.5)
    assert predicted.stamp_ns == now
    assert (predicted.target_id, predicted.state) == (last.target_id, last.state)
    later = predictor.predicted(last, now + 200 * MS, SETTINGS)
    assert later is not None
    assert all(b > a > 0 for a, b in zip(predicted.edge_std, later.edge_std, strict=True))


def test_there_is_no_prediction_where_time_is_out_of_reach() -> None:
    predictor = TrackPredictor()
    last = fed(predictor)
    for now in (last.stamp_ns - 1, last.stamp_ns + SETTINGS.max_time_ns + 1):
        assert predictor.predicted(last, now, SETTINGS) is None
    assert predictor.predicted(last, last.stamp_ns + SETTINGS.max_time_ns, SETTINGS) is not None
    predictor.update([replace(last, state=State.LOST)], SETTINGS)
    assert predictor.predicted(last, last.stamp_ns, SETTINGS) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"stamp_ns": moved(19).stamp_ns + 2 * S},
        {"stamp_ns": S},
        {"stamp_ns": moved(19).stamp_ns},
        {"box": Box(10, 10, 40, 80), "stamp_ns": moved(20).stamp_ns},
    ],
    ids=["gap", "step back", "same stamp", "restarted elsewhere"],
)
def test_a_target_starts_over(changes: dict[str, Any]) -> None:
    predictor = TrackPredictor()
    last = replace(fed(predictor), **changes)
    predictor.update([last], SETTINGS)
    predicted = predictor.predicted(last, last.stamp_ns + 200 * MS, SETTINGS)
    assert predicted is not None
    assert predicted.box == pytest.approx(last.box)


# The tracker node


def start(node: Node, age_ns: int, count: int = 8) -> None:
    node.tracker.receive_init(init_box(red_box(0)))
    for i in range(count):
        node.desk.time_ns = frame_stamp(i) + age_ns
        node.feed(image(i))


def test_the_node_publishes_predictions_to_those_who_subscribe() -> None:
    with Node() as node:
        start(node, PERIOD_NS)
        assert not node.desk.published[TRACK_PREDICTED]
    with Node() as node:
        node.desk.subscribed.add(TRACK_PREDICTED)
        start(node, PERIOD_NS)
        assert len(node.desk.published[TRACK_PREDICTED]) == len(node.desk.tracks) == 8
        track, predicted = node.desk.tracks[-1], node.desk.published[TRACK_PREDICTED][-1]
        assert stamp_ns(predicted) == frame_stamp(7) + PERIOD_NS == stamp_ns(track) + PERIOD_NS
        assert predicted.header.frame_id == "cam"
        # One period ahead: where the target will be in the next image.
        assert box_of(predicted)[:2] == pytest.approx(red_box(8)[:2], abs=0.7)
        assert min(np.subtract(predicted.edge_std, track.edge_std)) > 0
        assert not [line for line in node.desk.texts if "prediction" in line]


def test_the_node_says_once_why_there_is_no_prediction() -> None:
    with Node() as node:
        node.desk.subscribed.add(TRACK_PREDICTED)
        start(node, 2 * S)
        assert not node.desk.published[TRACK_PREDICTED]
        lines = [line for line in node.desk.texts if "no prediction" in line]
        assert lines == [
            "no prediction to now: the age of the images by this node's clock is not within 0 and "
            "0.5 s (predict.max_time)"
        ]
        node.tracker.set_values({"predict.max_time": 3.0})
        node.feed(image(8))
        assert len(node.desk.published[TRACK_PREDICTED]) == 1
    with Node() as node:
        node.desk.subscribed.add(TRACK_PREDICTED)
        node.tracker.receive_init(init_box(red_box(0)))
        for i in range(4):
            node.desk.time_ns = i * PERIOD_NS
            node.feed(image(i, stamp=0))
        assert not node.desk.published[TRACK_PREDICTED]
        assert node.desk.texts.count("no prediction to now: image stamps are zero or stand still")


def test_predictions_come_over_dds() -> None:
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    from dds_nodes import Local
    from peers import Peer

    from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable

    with own_domain(), Peer() as peer, Local(predict__max_time=10.0) as local:
        camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", reliable())
        starter = peer.node.create_publisher("/init_box", INITS["init_box"], reliable())
        for topic in ("track", "track_predicted", "detections"):
            peer.listen(f"/{topic}", OUTPUTS[topic])
            wait_for(lambda topic=topic: local.tracking.has_subscribers(topic), "the listener")
        peer.wait_reliable("/image")
        wait_for(lambda: starter.subscription_count, "a subscription to init_box")
        starter.publish(init_box(red_box(0)))
        wait_for(lambda: local.tracking.tracker.targets, "the box")
        for i in range(3):
            message = image(i, stamp=time.time_ns())
            peer.publish_acknowledged(camera, message, "/detections")
        wait_for(lambda: len(peer.heard["/track_predicted"]) == 3, "predictions")
    for seen, predicted in zip(peer.heard["/track"], peer.heard["/track_predicted"], strict=True):
        assert stamp_ns(seen) < stamp_ns(predicted) < time.time_ns()


# Replays


def test_a_replay_predicts_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixformerv2_ros.cli.shared.load_engine", lambda *args: RedEngine())
    bag = write_bag(tmp_path / "bag", 8)
    outs = [tmp_path / name / "out" for name in ("one", "two", "plain")]
    for out in outs:
        out.parent.mkdir()
        options = ["--track-predicted"] if out.parent.name != "plain" else []
        assert run_command("replay", bag, "-o", out, "--box", BOX_TEXT, *options) == 0
    one, two, _ = (storage_file(out).read_bytes() for out in outs)
    assert one == two
    with BagReader(outs[2]) as reader:
        assert set(reader.topics) == {"/track", "/detections"}
    with BagReader(outs[0]) as reader:
        messages = [reader.deserialize(m) for m in reader.messages(["/track_predicted"])]
    # Images of these recordings are recorded 1000 ns after their stamp.
    assert [stamp_ns(m) for m in messages] == [frame_stamp(i) + 1000 for i in range(8)]


# The target pose node


class Desk:
    """Keeps what is published; its clock is `age_ns` ahead of the last image."""

    types = TYPES

    def __init__(self, matrix: np.ndarray | None = None) -> None:
        self.time_ns = 0
        self.published: dict[str, Any] = {}
        self.lines: list[str] = []
        self.matrix = matrix

    def now_ns(self) -> int:
        return self.time_ns

    def publish(self, topic: str, message: Any) -> None:
        self.published[topic] = message

    def has_subscribers(self, topic: str) -> bool:
        return True

    def log(self, level: Level, text: str) -> None:
        self.lines.append(text)

    def transform(self, target: str, source: str, stamp: int) -> np.ndarray | None:
        return self.matrix


def located(desk: Desk, age_ns: int, **values: Any) -> None:
    """A target 4 m ahead that moves to the right by 100 px/s, which is 0.8 m/s."""
    node = LiveTargetPose({k.replace("__", "."): v for k, v in values.items()}, desk)
    node.receive_camera_info(camera_info())
    for i in range(20):
        stamp = S + i * 100 * MS
        box = Box(BOX.x + 10 * i, *BOX[1:])
        desk.time_ns = stamp + age_ns
        node.receive_range(depth_image(np.full((480, 640), 4.0, np.float32), stamp=stamp))
        node.receive_track(track_message(TYPES, track(box, stamp=stamp, edge_std=(0.5,) * 4)))


def position(desk: Desk) -> np.ndarray:
    found = desk.published[TARGET_POSE].pose.position
    return np.array([found.x, found.y, found.z])


def test_bearing_and_pose_are_those_of_now() -> None:
    before, now = Desk(), Desk()
    located(before, 200 * MS)
    located(now, 200 * MS, predict__enabled=True)
    last = S + 1900 * MS
    for topic in (TARGET_POSE, TARGET_POSE_WITH_COVARIANCE, BEARING, BEARING_ANGLES):
        assert stamp_ns(before.published[topic]) == last
        assert stamp_ns(now.published[topic]) == last + 200 * MS
    assert position(now) - position(before) == pytest.approx([0.16, 0, 0], abs=0.02)
    variances = [
        np.asarray(desk.published[TARGET_POSE_WITH_COVARIANCE].pose.covariance).reshape(6, 6)
        for desk in (before, now)
    ]
    assert variances[1][0, 0] > variances[0][0, 0]
    ray = now.published[BEARING].vector
    ahead = BOX.center[0] + 190 + 20
    assert ray.x / ray.z == pytest.approx((ahead - 0.5 - K[0, 2]) / K[0, 0], abs=0.005)
    assert before.lines + now.lines == []


def test_in_a_fixed_frame_the_velocity_is_that_of_the_target() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # x ahead, y to the left, z up
    desks = Desk(matrix), Desk(matrix)
    located(desks[0], 200 * MS, target_frame="map")
    located(desks[1], 200 * MS, target_frame="map", predict__enabled=True)
    assert position(desks[1]) - position(desks[0]) == pytest.approx([0, -0.16, 0], abs=0.02)
    assert desks[1].published[TARGET_POSE].header.frame_id == "map"


def test_images_out_of_reach_keep_their_stamp() -> None:
    desk, plain = Desk(), Desk()
    located(desk, 2 * S, predict__enabled=True)
    located(plain, 2 * S)
    assert stamp_ns(desk.published[TARGET_POSE]) == S + 1900 * MS
    assert position(desk) == pytest.approx(position(plain))
    assert len(desk.lines) == 1
    assert "no prediction to now: the age of the images" in desk.lines[0]
