"""The node of one of several cameras on DDS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.cyclonedds.participant import Log
from mixformerv2_ros.ros.cyclonedds.tracker_node import DdsTrackerNode
from mixformerv2_ros.ros.live.cameras import CameraThread
from mixformerv2_ros.ros.live.engine_log import engine_lines
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.messages import Level


@dataclass(frozen=True)
class CameraNode:
    """What a `CameraThread` runs.

    Attributes:
        names: Names of the node.
        log: Writes a line to its log.
        values: Its parameters by name.
        sim_time: Take the time from `/clock`.
        load: Gives the model of parameters.
    """

    names: NodeNames
    log: Log
    values: Mapping[str, Any]
    sim_time: bool
    load: Callable[[Mapping[str, Any]], Model]

    def run(self, thread: CameraThread) -> None:
        """Track until the thread is closing.

        Raises:
            MixFormerError: the node or the model cannot be made.
            BaseException: what has ended the tracker.
        """
        with (
            Node(self.names, self.log, sim_time=self.sim_time, rosout=True) as node,
            engine_lines(node.log),
        ):
            model = self.load(self.values)
            with DdsTrackerNode(model, self.values, node) as tracking:
                node.log(Level.OK, f"ready: {model.summary}")
                thread.set_ready()
                node.spin(lambda: thread.is_closing() or tracking.tracker.failure is not None)
            if tracking.tracker.failure is not None:
                raise tracking.tracker.failure
