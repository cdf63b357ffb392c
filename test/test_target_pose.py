"""Where a target is: positions, covariances, goals, and silence where there is none."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ranging import (
    BOX,
    FRAME,
    HEIGHT,
    TYPES,
    WIDTH,
    K,
    camera_info,
    cloud,
    depth_image,
    track,
)

from mixformerv2_ros.errors import ParameterError, PoseError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.live.live_target_pose import LiveTargetPose
from mixformerv2_ros.ros.messages import Level, image_message, read_track, stamp_ns, track_message
from mixformerv2_ros.ros.parameter_profiles import markdown_table, parameter_file
from mixformerv2_ros.ros.parameters import POSE_PARAMETERS, check_values
from mixformerv2_ros.ros.pose.camera import Camera, Vector
from mixformerv2_ros.ros.pose.estimate import (
    ANY_ANGLE_VARIANCE,
    at_depth,
    at_range,
    at_width,
    look_at,
    position_covariance,
    quaternion,
)
from mixformerv2_ros.ros.pose.target_pose import PoseSettings, TargetPose, ground_goal, transformed
from mixformerv2_ros.ros.topics import (
    BEARING,
    BEARING_ANGLES,
    GOAL_UPDATE,
    POSE_OUTPUTS,
    TARGET_POSE,
    TARGET_POSE_WITH_COVARIANCE,
    TF,
)
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State

S = 10**9
DISTORTED = camera_info(d=(-0.2, 0.05, 0.001, -0.001, 0.0))


def no_transform(target: str, source: str, stamp: int) -> None:
    return None


def located(source: str = "depth", **changes: Any) -> TargetPose:
    pose = TargetPose(PoseSettings(source=source, **changes), no_transform)
    pose.set_camera(camera_info())
    return pose


def flat_depth(metres: float, stamp: int = S, width: int = WIDTH) -> Any:
    return depth_image(np.full((width * 3 // 4, width), metres, np.float32), stamp=stamp)


def rotation_of(q: Any) -> np.ndarray:
    """Rotation matrix of a quaternion x, y, z, w, by its definition."""
    x, y, z, w = q
    v = np.array([x, y, z])
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return (w * w - v @ v) * np.eye(3) + 2 * np.outer(v, v) + 2 * w * skew


# Positions and covariances


def test_depth_gives_the_point_that_the_camera_projects_into_the_box() -> None:
    pose = located()
    pose.add_range(flat_depth(4.0))
    bearing = pose.add_track(track(BOX))
    estimate = pose.next_pose()
    assert bearing is not None
    assert estimate is not None
    assert estimate.position[2] == pytest.approx(4.0)
    pixel = K @ estimate.position / estimate.position[2]
    assert pixel[:2] + 0.5 == pytest.approx(BOX.center)
    assert np.cross(bearing.ray, estimate.position) == pytest.approx([0, 0, 0], abs=1e-9)
    assert (estimate.stamp_ns, estimate.frame_id, estimate.source) == (S, FRAME, "depth")
    assert pose.next_pose() is None


@pytest.mark.parametrize("width", [320, 640, 1280])
def test_depth_may_have_another_resolution(width: int) -> None:
    pose = located()
    depths = np.full((width * 3 // 4, width), 9.0, np.float32)
    k = width / WIDTH
    depths[round(200 * k) : round(280 * k), round(300 * k) : round(340 * k)] = 3.0
    pose.add_range(depth_image(depths, stamp=S))
    pose.add_track(track(BOX))
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.position[2] == pytest.approx(3.0)


def test_depth_of_another_shape_is_not_registered() -> None:
    pose = located()
    pose.add_range(depth_image(np.full((480, 848), 2.0, np.float32), stamp=S))
    pose.add_track(track(BOX))
    with pytest.raises(PoseError, match=r"registered to the 640x480 image, .* 848x480"):
        pose.next_pose()


def test_a_known_width_gives_the_distance() -> None:
    """A target that faces the camera, of which the corners are projected into the image."""
    middle = np.array([1.2, -0.3, 5.0])
    across = np.cross([0, -1, 0], middle)
    across *= 0.6 / 2 / np.linalg.norm(across)
    pixels = [K @ (p / p[2]) for p in (middle + across, middle, middle - across)]
    left, right = sorted(p[0] + 0.5 for p in (pixels[0], pixels[2]))
    row = pixels[1][1] + 0.5
    pose = located("width", target_width=0.6)
    pose.add_track(track(Box(left, row - 50, right - left, 100)))
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.position == pytest.approx(middle, abs=0.02)
    assert estimate.source == "width"


def test_a_target_cut_off_at_the_side_has_no_known_width() -> None:
    for box in (Box(0, 100, 40, 80), Box(WIDTH - 40, 100, 40, 80)):
        pose = located("width", target_width=0.6)
        assert pose.add_track(track(box)) is not None
        with pytest.raises(PoseError, match="cut off at the image border"):
            pose.next_pose()


def cloud_of(metres: float, frame: str = FRAME, stamp: int = S) -> Any:
    """A wall at that depth as the camera sees it, every second pixel."""
    rows, columns = np.mgrid[0 : HEIGHT // 2, 0 : WIDTH // 2] * 2.0 + 0.5
    x, y = (columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1]
    points = np.stack([x, y, np.ones_like(x)], axis=-1) * metres
    if frame != FRAME:
        points = (points - TO_CAMERA[:3, 3]) @ TO_CAMERA[:3, :3]
    return cloud(points, stamp=stamp, frame=frame)


TO_CAMERA = np.eye(4)
TO_CAMERA[:3, :3] = rotation_of([-0.5, 0.5, -0.5, 0.5]).T
TO_CAMERA[:3, 3] = (0.1, 0.2, -0.3)


def test_a_cloud_gives_the_position_in_whatever_frame_it_comes() -> None:
    def transform(target: str, source: str, stamp: int) -> Vector | None:
        assert (target, source, stamp) == (FRAME, "lidar", S)
        return TO_CAMERA

    expected = None
    for frame in (FRAME, "lidar"):
        pose = TargetPose(PoseSettings(source="cloud"), transform)
        pose.set_camera(camera_info())
        pose.add_range(cloud_of(4.0, frame))
        pose.add_track(track(BOX))
        estimate = pose.next_pose()
        assert estimate is not None
        assert estimate.frame_id == FRAME
        assert estimate.position[2] == pytest.approx(4.0, abs=1e-4)
        pixel = K @ estimate.position / 4.0
        assert pixel[:2] + 0.5 == pytest.approx(BOX.center, abs=1.5)
        if expected is not None:
            assert estimate.position == pytest.approx(expected, abs=1e-4)
        expected = estimate.position
    lost = TargetPose(PoseSettings(source="cloud"), no_transform)
    lost.set_camera(camera_info())
    lost.add_range(cloud_of(4.0, "lidar"))
    lost.add_track(track(BOX))
    with pytest.raises(PoseError, match="no transform from the point cloud's frame 'lidar'"):
        lost.next_pose()


@pytest.mark.parametrize(
    ("make", "distance", "std"), [(at_depth, 4.0, 0.1), (at_range, 4.0, 0.1), (at_width, 0.5, 0.03)]
)
@pytest.mark.parametrize("box", [BOX, Box(520, 380, 60, 60)])
def test_covariance_is_that_of_drawn_samples(
    make: Any, distance: float, std: float, box: Box
) -> None:
    camera = Camera.from_message(DISTORTED)
    place, edges = make(camera), (1.0, 2.0, 1.5, 2.5)
    covariance = position_covariance(place, box, edges, distance, std)
    rng = np.random.default_rng(5)
    x, y, w, h = box
    draws = rng.normal([x, y, x + w, y + h, distance], [*edges, std], (4000, 5))
    points = np.array([place(Box(a, b, c - a, d - b), s) for a, b, c, d, s in draws])
    sampled = np.cov(points.T)
    scale = np.sqrt(np.outer(np.diag(sampled), np.diag(sampled)))
    np.testing.assert_allclose(covariance / scale, sampled / scale, atol=0.12)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_covariance_has_a_floor_and_says_that_the_orientation_is_unknown() -> None:
    """The first track of a target carries no deviations; a filter cannot divide by nothing."""
    pose = located()
    pose.add_range(flat_depth(4.0))
    pose.add_track(track(BOX, edge_std=(0.0, 0.0, 0.0, 0.0)))
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.covariance.shape == (6, 6)
    assert np.linalg.eigvalsh(estimate.covariance).min() > 0
    assert estimate.covariance[2, 2] == pytest.approx(0.01**2, rel=1e-6)
    assert np.diag(estimate.covariance)[3:] == pytest.approx([ANY_ANGLE_VARIANCE] * 3)


# Orientation and goals


@pytest.mark.parametrize("seed", range(5))
def test_a_quaternion_is_its_rotation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = rng.normal(size=4)
    q /= np.linalg.norm(q) * math.copysign(1, q[3])
    assert quaternion(rotation_of(q)) == pytest.approx(q)
    half_turn = rotation_of([*(q[:3] / np.linalg.norm(q[:3])), 0.0])
    assert rotation_of(quaternion(half_turn)) == pytest.approx(half_turn, abs=1e-6)


@pytest.mark.parametrize("direction", [(1, 2, 5), (-3, 0.1, 1), (0, 0, 1), (0, -2, 0), (0, 2, 0)])
def test_look_at_looks_along_the_line_of_sight_and_stands_upright(direction: Any) -> None:
    up = np.array([0.0, -1.0, 0.0])
    rotation = rotation_of(look_at(np.array(direction, float), up))
    assert rotation[:, 0] == pytest.approx(np.array(direction) / np.linalg.norm(direction))
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rotation[:, 2] @ up >= -1e-9
    assert rotation[:, 1] @ up == pytest.approx(0, abs=1e-9)


# An optical frame that looks along x of a fixed frame, a metre above its ground, 2 m ahead.
TO_MAP = np.eye(4)
TO_MAP[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
TO_MAP[:3, 3] = (2, 0, 1)


def test_a_pose_in_a_fixed_frame_and_the_goal_under_it() -> None:
    pose = located()
    pose.add_range(flat_depth(4.0))
    pose.add_track(track(BOX))
    seen = pose.next_pose()
    assert seen is not None
    estimate = transformed(seen, TO_MAP, "map")
    x, y, z = seen.position
    assert estimate.position == pytest.approx([2 + z, -x, 1 - y])
    assert estimate.frame_id == "map"
    expected = TO_MAP[:3, :3] @ seen.covariance[:3, :3] @ TO_MAP[:3, :3].T
    assert estimate.covariance[:3, :3] == pytest.approx(expected)
    assert rotation_of(estimate.orientation)[:, 0] == pytest.approx(
        (estimate.position - TO_MAP[:3, 3]) / np.linalg.norm(seen.position)
    )
    position, orientation = ground_goal(estimate)
    assert position == pytest.approx([2 + z, -x, 0])
    yaw = math.atan2(-x, z)
    assert orientation == pytest.approx([0, 0, math.sin(yaw / 2), math.cos(yaw / 2)])


# What belongs together


def test_the_nearest_depth_image_serves() -> None:
    pose = located()
    for index in range(5):
        pose.add_range(flat_depth(1.0 + index, S + index * 33_000_000))
    pose.add_track(track(stamp=S + 70_000_000))
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.position[2] == pytest.approx(3.0)
    assert estimate.stamp_ns == S + 70_000_000


def test_a_track_waits_for_the_depth_image_that_is_nearest() -> None:
    pose = located()
    pose.add_range(flat_depth(1.0, S))
    pose.add_range(flat_depth(2.0, S + 30_000_000))
    pose.add_track(track(stamp=S + 50_000_000))  # the next one is nearer: due at 60 ms
    assert pose.next_pose() is None
    pose.add_range(flat_depth(3.0, S + 60_000_000))
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.position[2] == pytest.approx(3.0)
    pose.add_track(track(stamp=S + 74_000_000))  # the next one would be further away
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.position[2] == pytest.approx(3.0)


def test_a_track_waits_until_the_next_track_at_most() -> None:
    pose = located()
    pose.add_range(flat_depth(1.0, S))
    pose.add_track(track(stamp=S + 20_000_000))
    assert pose.next_pose() is None
    pose.add_track(track(stamp=S + 53_000_000))
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.stamp_ns == S + 20_000_000
    assert pose.next_pose() is None


def test_depth_too_far_in_time_is_none() -> None:
    pose = located()
    pose.add_range(flat_depth(1.0, S + 200_000_000))
    pose.add_track(track(stamp=S))
    with pytest.raises(PoseError, match=r"nearest depth image must be at most 0.05 s, got 0.200 s"):
        pose.next_pose()
    assert pose.next_pose() is None


def test_depth_is_kept_for_a_while_and_within_its_bytes() -> None:
    size = WIDTH * HEIGHT * 4
    pose = located(buffer_bytes=3 * size, buffer_ns=S, tolerance_ns=0, max_speed=0.0)
    for index in range(5):
        pose.add_range(flat_depth(1.0 + index, S + index * 1000))
    for index in range(5):
        pose.add_track(track(stamp=S + index * 1000))
        if index < 2:
            with pytest.raises(PoseError, match="time difference to the nearest"):
                pose.next_pose()
        else:
            assert pose.next_pose() is not None


def test_time_that_steps_back_forgets_the_depth_of_before() -> None:
    pose = located()
    pose.add_range(flat_depth(7.0, 100 * S))
    pose.add_range(flat_depth(2.0, S))
    pose.add_track(track(stamp=S))
    estimate = pose.next_pose()
    assert estimate is not None
    assert estimate.position[2] == pytest.approx(2.0)
    pose.add_track(track(stamp=100 * S))
    pose.add_track(track(stamp=101 * S))
    with pytest.raises(PoseError, match=r"got 99\.000 s"):
        pose.next_pose()


def depths_of_poses(found: TargetPose, depths: list[float], target_id: str = "target") -> list[Any]:
    """Distances of the poses of 30 images a second with these depths; None where there is none."""
    given = []
    for index, metres in enumerate(depths):
        stamp = S + index * S // 30
        found.add_range(flat_depth(metres, stamp))
        found.add_track(track(stamp=stamp, target_id=target_id))
        try:
            pose = found.next_pose()
        except PoseError as error:
            given.append(None if "more than range.max_speed permits" in str(error) else error)
        else:
            assert pose is not None
            given.append(round(float(pose.position[2]), 2))
    return given


def test_the_wall_behind_a_target_that_vanishes_is_not_its_distance() -> None:
    # A target at 2 m/s vanishes before a wall 3 m behind it, and is back after two images.
    depths = [4.0, 4.07, 4.13, 7.2, 7.2, 4.33]
    assert depths_of_poses(located(), depths) == [4.0, 4.07, 4.13, None, None, 4.33]
    assert depths_of_poses(located(max_speed=0.0), depths) == depths
    assert depths_of_poses(located(max_speed=200.0), depths) == depths


def test_a_target_that_stays_at_another_distance_has_a_pose_again() -> None:
    given = depths_of_poses(located(), [4.0] + [7.0] * 9)
    # 3 m take 0.15 s at 20 m/s, or 5 images.
    assert given == [4.0, *[None] * 4, *[7.0] * 5]


def test_another_target_may_be_at_another_distance() -> None:
    found = located()
    assert depths_of_poses(found, [4.0]) == [4.0]
    found.settings = replace(found.settings, target_id="b")
    assert depths_of_poses(found, [9.0], "b") == [9.0]
    # Time that steps back begins anew as well.
    found.settings = replace(found.settings, target_id="b")
    assert depths_of_poses(found, [9.0, 9.0], "b") == [9.0, 9.0]


def test_poses_rest_unless_the_target_is_seen() -> None:
    for state, doubtful, shown in (
        (State.TRACKING, False, True),
        (State.UNCERTAIN, False, False),
        (State.UNCERTAIN, True, True),
        (State.LOST, True, False),
        (State.IDLE, True, False),
    ):
        pose = located(publish_uncertain=doubtful)
        pose.add_range(flat_depth(1.0))
        assert (pose.add_track(track(state=state)) is not None) is shown
        assert (pose.next_pose() is not None) is shown


def test_one_target_is_located_at_a_time() -> None:
    pose = located()
    for step, (name, ours) in enumerate(
        [("a", True), ("b", False), ("a", True), ("b", False)], start=1
    ):
        assert (pose.add_track(track(target_id=name, stamp=S + step)) is not None) is ours
    assert pose.add_track(track(target_id="b", stamp=S + 4 + 2 * S)) is not None
    assert pose.target_id == "b"
    named = located(target_id="c")
    assert named.add_track(track(target_id="a")) is None
    assert named.add_track(track(target_id="c")) is not None


# The node without its middleware


class Desk:
    """Keeps what is published; knows one transform."""

    types = TYPES

    def __init__(self) -> None:
        self.published: dict[str, list[Any]] = defaultdict(list)
        self.lines: list[str] = []
        self.matrix: Vector | None = TO_MAP
        self.asked: list[tuple[str, str, int]] = []

    def now_ns(self) -> int:
        return S

    def publish(self, topic: str, message: Any) -> None:
        assert message.__msgtype__ == POSE_OUTPUTS[topic]
        typestore().serialize_cdr(message, POSE_OUTPUTS[topic])
        self.published[topic].append(message)

    def has_subscribers(self, topic: str) -> bool:
        return True

    def log(self, level: Level, text: str) -> None:
        assert level is Level.WARN
        self.lines.append(text)

    def transform(self, target: str, source: str, stamp: int) -> Vector | None:
        self.asked.append((target, source, stamp))
        return self.matrix


def fed(desk: Desk, state: State = State.TRACKING, **values: Any) -> LiveTargetPose:
    node = LiveTargetPose({k.replace("__", "."): v for k, v in values.items()}, desk)
    node.receive_camera_info(camera_info())
    if node.values["source"] == "depth":
        node.receive_range(flat_depth(4.0))
    node.receive_track(track_message(TYPES, track(BOX, state=state)))
    return node


def test_the_node_publishes_pose_covariance_and_bearing() -> None:
    desk = Desk()
    fed(desk)
    topics = {TARGET_POSE, TARGET_POSE_WITH_COVARIANCE, BEARING, BEARING_ANGLES}
    assert desk.published.keys() == topics
    pose = desk.published[TARGET_POSE][0]
    assert (stamp_ns(pose), pose.header.frame_id) == (S, FRAME)
    assert pose.pose.position.z == pytest.approx(4.0)
    ray = desk.published[BEARING][0].vector
    position = pose.pose.position
    assert (ray.x / ray.z, ray.y / ray.z) == pytest.approx((position.x / 4, position.y / 4))
    angles = desk.published[BEARING_ANGLES][0].vector
    assert (angles.x, angles.z) == (pytest.approx(math.atan2(ray.x, ray.z)), 0.0)
    covariance = desk.published[TARGET_POSE_WITH_COVARIANCE][0].pose.covariance
    assert covariance.reshape(6, 6)[2, 2] == pytest.approx(0.01**2, rel=1e-6)


def test_in_a_fixed_frame_there_is_a_goal_and_a_frame_at_the_target() -> None:
    desk = Desk()
    fed(desk, target_frame="map", tf_frame="target")
    assert desk.asked == [("map", FRAME, S)]
    assert desk.published.keys() == set(POSE_OUTPUTS)
    goal, pose = desk.published[GOAL_UPDATE][0], desk.published[TARGET_POSE][0]
    assert (goal.header.frame_id, stamp_ns(goal)) == ("map", S)
    assert (goal.pose.position.x, goal.pose.position.z) == (pytest.approx(6.0), 0.0)
    assert (goal.pose.orientation.x, goal.pose.orientation.y) == (0.0, 0.0)
    (transform,) = desk.published[TF][0].transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("map", "target")
    assert transform.transform.translation.y == pose.pose.position.y


def test_without_the_transform_there_is_the_bearing_alone() -> None:
    desk = Desk()
    desk.matrix = None
    fed(desk, target_frame="map")
    assert desk.published.keys() == {BEARING, BEARING_ANGLES}
    assert desk.lines == [f"no pose: no transform from {FRAME} to map"]


@pytest.mark.parametrize("state", [State.LOST, State.UNCERTAIN, State.IDLE])
def test_the_node_falls_silent_with_the_target(state: State) -> None:
    desk = Desk()
    fed(desk, state)
    assert not desk.published
    assert not desk.lines


def test_only_the_bearing_is_given_where_nothing_measures() -> None:
    desk = Desk()
    fed(desk, source="bearing")
    assert desk.published.keys() == {BEARING, BEARING_ANGLES}
    assert not desk.lines


def test_a_reason_is_said_once_in_a_while() -> None:
    desk = Desk()
    node = LiveTargetPose({}, desk)
    for step in range(20):
        node.receive_track(track_message(TYPES, track(stamp=S + step)))
        node.receive_camera_info(camera_info(k=np.zeros((3, 3))))
    assert desk.lines == [
        "no bearing: no valid camera_info received",
        "camera_info rejected: camera is not calibrated: matrix K must have positive focal "
        "lengths, got fx 0, fy 0",
    ]
    node.receive_camera_info(camera_info())
    for step in range(20, 40):
        node.receive_track(track_message(TYPES, track(stamp=S + step)))
        node.receive_range(flat_depth(1.0, 90 * S + step))
    node.receive_range(image_message(TYPES, np.zeros((4, 4, 3), np.uint8), "rgb8", 91 * S, FRAME))
    assert len(desk.lines) == 4
    assert desk.lines[2].startswith("no position: time difference to the nearest depth image must")
    assert desk.lines[3].startswith("depth rejected: ")


def test_a_track_that_makes_no_sense_gives_a_line_and_nothing_else() -> None:
    messages = [track_message(TYPES, track(BOX)) for _ in range(4)]
    messages[0].state = 7
    messages[1].box.center.position.x = math.nan
    messages[2].edge_std[0] = math.nan
    messages[3].box.size_x = 0.0
    for message, words in zip(
        messages,
        ("7 is not a valid State", "finite", "finite", "must be above 0, got 0"),
        strict=True,
    ):
        desk = Desk()
        node = fed(desk, State.LOST, source="width", target_width=1.0)
        node.receive_track(message)
        assert not desk.published[TARGET_POSE]
        assert len(desk.lines) == 1
        assert words in desk.lines[0]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("box.size_x", 1e-20, "no position: box width 1e-20 is too small for a distance"),
        (
            "box.size_x",
            1e308,
            "no bearing: box must be finite and at most 1e+07 pixels, got -5e+",
        ),
        ("box.size_y", -math.inf, "no bearing: box must be finite and at most 1e+07 pixels, got "),
        ("header.stamp.sec", -1, "no bearing: stamp of a track must be 0 to 2^31 s, got -1 s"),
        ("header.stamp.nanosec", 0, ""),
    ],
)
def test_one_number_of_a_track_that_makes_no_sense_gives_one_line(
    field: str, value: float, words: str
) -> None:
    desk = Desk()
    node = fed(desk, State.LOST, source="width", target_width=1.0)
    message = track_message(TYPES, track(BOX))
    *path, name = field.split(".")
    owner = message
    for step in path:
        owner = getattr(owner, step)
    setattr(owner, name, value)
    node.receive_track(message)
    assert bool(desk.published[TARGET_POSE]) is not bool(words)
    assert [line[: len(words)] for line in desk.lines] == ([words] if words else [])
    desk.lines.clear()
    node.receive_track(track_message(TYPES, track(BOX, stamp=2 * S)))
    assert desk.published[TARGET_POSE], "one bad message must not end the work"


@pytest.mark.parametrize("metres", [1e-45, 1e-20, 1e200, 1e308])
@pytest.mark.filterwarnings("error")
def test_a_distance_without_a_direction_or_beyond_all_numbers_gives_one_line(metres: float) -> None:
    for source, message in (
        ("cloud", cloud(np.full((48, 64, 3), metres), stamp=S, kind="f8")),
        ("depth", flat_depth(min(metres, 3e38))),
    ):
        desk = Desk()
        node = fed(desk, State.LOST, source=source)
        node.receive_range(message)
        node.receive_track(track_message(TYPES, track(BOX)))
        if desk.published[TARGET_POSE]:  # float32 ends before the numbers of a pose do
            assert (source, metres > 1) == ("depth", True)
            covariance = desk.published[TARGET_POSE_WITH_COVARIANCE][0].pose.covariance
            assert np.isfinite(covariance).all()
        else:
            assert len(desk.lines) == 1
            assert desk.lines[0].startswith("no position: ")


def test_distances_before_all_time_give_one_line() -> None:
    """A transform can be asked for no negative time."""
    desk = Desk()
    node = fed(desk, State.LOST, source="cloud")
    node.receive_range(cloud_of(4.0, "lidar", stamp=-S))
    assert desk.lines == ["depth rejected: stamp must not be negative, got -1 s"]


@pytest.mark.parametrize("source", ["cloud", "depth"])
def test_a_transform_that_is_not_finite_gives_one_line(source: str) -> None:
    desk = Desk()
    desk.matrix = np.full((4, 4), np.nan)
    node = fed(desk, State.LOST, source=source, target_frame="map")
    node.receive_range(cloud_of(4.0, "lidar") if source == "cloud" else flat_depth(4.0))
    node.receive_track(track_message(TYPES, track(BOX)))
    assert not desk.published[TARGET_POSE]
    (line,) = desk.lines
    assert "must be finite" in line


FINITE = (0.0, -1.0, 5e-324, 1e-300, 1e-20, 0.5, 640.0, 1e7, 1e20, 1e155, 1e300, -1e300, 1.7e308)
EXTREME = st.sampled_from([*FINITE, math.inf, -math.inf, math.nan])
SECONDS = st.sampled_from([-(2**31), -1, 0, 2**31 - 1])
WHOLE = st.sampled_from([0, 1, 2, 640, 2**31, 2**32 - 1])


@given(data=st.data(), source=st.sampled_from(["width", "depth", "cloud", "bearing"]))
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("error")
def test_no_message_ends_the_node_or_makes_it_publish_nonsense(data: Any, source: str) -> None:
    """One to three numbers of sound messages are replaced."""
    desk = Desk()
    node = fed(desk, State.LOST, source=source, target_width=0.5)
    sent = track_message(TYPES, track(BOX, stamp=2 * S))
    model, count = data.draw(st.sampled_from([("plumb_bob", 14), ("equidistant", 4), ("", 0)]))
    info = camera_info(K.copy(), [0.01] * count, model)
    measured = cloud_of(4.0, stamp=2 * S) if source == "cloud" else flat_depth(4.0, stamp=2 * S)
    numbers: list[tuple[Any, str | int, Any]] = [
        *((sent.box.center.position, name, EXTREME) for name in "xy"),
        *((sent.box, name, EXTREME) for name in ("size_x", "size_y")),
        *((sent.edge_std, index, st.sampled_from([3e38, math.inf, math.nan])) for index in (0, 3)),
        *((info.k, index, EXTREME) for index in (0, 2, 4, 5)),
        *((info.d, index, EXTREME) for index in range(count)),
        *((info.roi, name, WHOLE) for name in ("x_offset", "y_offset", "width", "height")),
        *((info, name, WHOLE) for name in ("binning_x", "binning_y", "width", "height")),
        *((measured, name, WHOLE) for name in ("width", "height")),
        *((m.header.stamp, "sec", SECONDS) for m in (sent, measured)),
        *((m.header.stamp, "nanosec", WHOLE) for m in (sent, measured)),
    ]
    for index in data.draw(st.sets(st.integers(0, len(numbers) - 1), min_size=1, max_size=3)):
        owner, place, values = numbers[index]
        value = data.draw(values)
        if isinstance(place, int):
            owner[place] = value
        else:
            setattr(owner, place, value)
    node.receive_camera_info(info)
    if source in ("cloud", "depth"):
        node.receive_range(measured)
    node.receive_track(sent)
    for message in desk.published[TARGET_POSE_WITH_COVARIANCE]:
        pose = message.pose.pose
        for each in (pose.position, pose.orientation):
            assert all(math.isfinite(getattr(each, name)) for name in "xyz")
        assert np.isfinite(message.pose.covariance).all()
    for message in desk.published[BEARING]:
        ray = message.vector
        assert math.hypot(ray.x, ray.y, ray.z) == pytest.approx(1)
    kinds = ("no ", "camera_info rejected: ", "depth rejected: ")
    assert all(line.startswith(kinds) and line.isprintable() for line in desk.lines)
    assert all(len(line) < 200 for line in desk.lines)


def test_parameters_change_while_it_runs() -> None:
    desk = Desk()
    node = fed(desk, State.UNCERTAIN)
    node.set_values({"publish_uncertain": True, "range.region": 0.2})
    node.receive_track(track_message(TYPES, track(BOX, state=State.UNCERTAIN)))
    assert len(desk.published[TARGET_POSE]) == 1
    for changes, words in (
        ({"source": "cloud"}, "source cannot be changed at runtime"),
        ({"range.region": 2.0}, "range.region must be 0.05 to 1, got 2"),
        ({"tf_frame": "x", "target_frame": "x"}, "tf_frame must differ from target_frame, got 'x'"),
        ({"publish_uncertain": 1}, "publish_uncertain must be bool, got 1"),
    ):
        with pytest.raises(ParameterError, match=words):
            node.set_values(changes)
    assert node.values["range.region"] == 0.2


def test_a_source_needs_what_it_measures_with() -> None:
    with pytest.raises(ParameterError, match="source width requires a target_width above 0"):
        check_values({"source": "width"}, POSE_PARAMETERS)
    desk = Desk()
    fed(desk, source="width", target_width=0.5)
    assert desk.published[TARGET_POSE][0].pose.position.z == pytest.approx(0.5 * 500 / 40, rel=0.01)


def test_a_parameter_file_of_the_node_reads_back() -> None:
    given = {"source": "cloud", "publish_uncertain": True, "range.region": 0.25}
    content = yaml.safe_load(parameter_file("Pose.", given, POSE_PARAMETERS))
    flat = {}
    for name, value in content["/**"]["ros__parameters"].items():
        inner = value if isinstance(value, dict) else {"": value}
        flat.update({f"{name}.{key}".rstrip("."): item for key, item in inner.items()})
    assert check_values(flat, POSE_PARAMETERS) == check_values(given, POSE_PARAMETERS)
    assert "| `rectified` | `false` | true \\| false |" in markdown_table(POSE_PARAMETERS)


def test_truth_is_typed_in_words() -> None:
    (rectified,) = (p for p in POSE_PARAMETERS if p.name == "rectified")
    assert [rectified.parse(text) for text in ("true", "False")] == [True, False]
    with pytest.raises(ParameterError, match="rectified must be bool, got 'yes'"):
        rectified.parse("yes")


def test_settings_begin_as_the_parameters_do() -> None:
    from mixformerv2_ros.ros.live.live_target_pose import pose_settings

    assert pose_settings(check_values({}, POSE_PARAMETERS)) == PoseSettings()


def test_a_track_survives_its_message() -> None:
    sent = track(edge_std=(1.0, 2.0, 3.5, 4.25))
    received = read_track(track_message(TYPES, sent))
    assert received.box == pytest.approx(sent.box)
    assert (received.edge_std, received.state) == (sent.edge_std, sent.state)
    assert received.confidence == pytest.approx(sent.confidence)
    assert (received.stamp_ns, received.frame_id) == (sent.stamp_ns, sent.frame_id)
