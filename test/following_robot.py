"""A simulated robot with a camera, and a red target that it can follow.

The robot is a unicycle that executes `cmd_vel` exactly; its camera looks ahead. The target is a red
square plate that faces the camera. Frames: `odom`, `base_link`, `camera` (optical).
"""

from __future__ import annotations

import math
import threading
from array import array
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped, Twist
from nav_msgs.msg import Odometry
from rclpy.node import Node
from recordings import HEIGHT, WIDTH
from sensor_msgs.msg import CameraInfo, Image
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

PERIOD_S = 0.05
FOCAL_PX = 150.0
PLATE_M = 0.5
WAITS_M = 1.6
"""The target waits for a robot that is farther away, however busy the machine is."""
BEHIND_M = 12.0
"""Distance of the background."""


class FollowingRobot:
    """Robot, camera and target on an rclpy node; steps by the node's timer."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.x = self.y = self.heading = 0.0
        self.target = np.array([2.5, 0.0])
        self.speed = np.zeros(2)
        self.visible = True
        self._command = Twist()
        self._lock = threading.Lock()
        node.create_subscription(Twist, "/cmd_vel", self._take, 10)
        self._frames = TransformBroadcaster(node)
        self._fixed = StaticTransformBroadcaster(node)
        publisher = node.create_publisher
        self._odometry = publisher(Odometry, "/odom", 10)
        self._images = publisher(Image, "/camera/image_raw", 5)
        self._depths = publisher(Image, "/camera/depth", 5)
        self._infos = publisher(CameraInfo, "/camera/camera_info", 5)
        # x right, y down, z ahead.
        self._fixed.sendTransform(
            transform("base_link", "camera", node, (0.1, 0.0, 0.3), (-0.5, 0.5, -0.5, 0.5))
        )
        node.create_timer(PERIOD_S, self._step)

    @property
    def distance(self) -> float:
        """From the robot to the target in metres."""
        with self._lock:
            return float(math.hypot(*(self.target - (self.x, self.y))))

    def box(self) -> tuple[float, float, float, float] | None:
        """The plate in the image, x, y, w, h; None while it is not ahead."""
        ahead, left = self._seen()
        if ahead < 0.2:
            return None
        side = FOCAL_PX * PLATE_M / ahead
        centre = WIDTH / 2 - FOCAL_PX * left / ahead
        return centre - side / 2, HEIGHT / 2 - side / 2, side, side

    def _seen(self) -> tuple[float, float]:
        """Position of the target ahead of the camera and to its left, in metres."""
        dx, dy = self.target - (self.x, self.y)
        c, s = math.cos(self.heading), math.sin(self.heading)
        return c * dx + s * dy - 0.1, c * dy - s * dx

    def _take(self, command: Twist) -> None:
        self._command = command

    def _step(self) -> None:
        with self._lock:
            speed, turn = self._command.linear.x, self._command.angular.z
            self.heading += turn * PERIOD_S
            self.x += speed * math.cos(self.heading) * PERIOD_S
            self.y += speed * math.sin(self.heading) * PERIOD_S
            if math.hypot(*(self.target - (self.x, self.y))) < WAITS_M:
                self.target = self.target + self.speed * PERIOD_S
            box, ahead = self.box() if self.visible else None, self._seen()[0]
        half = self.heading / 2
        turned = (0.0, 0.0, math.sin(half), math.cos(half))
        moved = transform("odom", "base_link", self.node, (self.x, self.y, 0.0), turned)
        self._frames.sendTransform(moved)
        odometry = Odometry(header=moved.header, child_frame_id="base_link")
        odometry.pose.pose.position.x, odometry.pose.pose.position.y = self.x, self.y
        odometry.pose.pose.orientation = moved.transform.rotation
        odometry.twist.twist = self._command
        self._odometry.publish(odometry)
        colors = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        depths = np.full((HEIGHT, WIDTH), BEHIND_M, np.float32)
        if box is not None:
            x, y, w, h = (round(side) for side in box)
            rows, columns = slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))
            colors[rows, columns] = (230, 20, 20)
            depths[rows, columns] = ahead
        header = moved.header
        self._images.publish(picture(header, colors, "rgb8"))
        self._depths.publish(picture(header, depths, "32FC1"))
        info = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model="plumb_bob")
        info.header.stamp, info.header.frame_id = header.stamp, "camera"
        info.d = [0.0] * 5
        info.k = [FOCAL_PX, 0.0, WIDTH / 2, 0.0, FOCAL_PX, HEIGHT / 2, 0.0, 0.0, 1.0]
        info.p = [*info.k[:3], 0.0, *info.k[3:6], 0.0, 0.0, 0.0, 1.0, 0.0]
        self._infos.publish(info)


def transform(
    parent: str, child: str, node: Node, place: tuple[float, ...], turn: tuple[float, ...]
) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = node.get_clock().now().to_msg()
    for name, value in zip("xyz", place, strict=True):
        setattr(message.transform.translation, name, value)
    for name, value in zip("xyzw", turn, strict=True):
        setattr(message.transform.rotation, name, value)
    return message


def picture(header: Any, pixels: np.ndarray, encoding: str) -> Image:
    message = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=pixels.strides[0])
    message.header.stamp, message.header.frame_id = header.stamp, "camera"
    message.data = array("B", pixels.tobytes())
    return message
