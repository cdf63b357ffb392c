"""The tracker node on DDS within this process, for tests."""

from __future__ import annotations

import threading
from typing import Any

from nodes import BUNDLE
from recordings import RedEngine
from waiting import wait_for

from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.cyclonedds.node import CHECK_S, Node
from mixformerv2_ros.ros.cyclonedds.tracker_node import DdsTrackerNode
from mixformerv2_ros.ros.live.model import Model


class Local:
    """The tracker node in this process, with an engine that sees red."""

    def __init__(self, *, names: NodeNames | None = None, sim_time: bool = False, **values: Any):
        self.lines: list[str] = []
        self.node = Node(names or NodeNames("tracker"), self._log, sim_time=sim_time)
        values = {name.replace("__", "."): value for name, value in values.items()}
        model = Model(BUNDLE, RedEngine())
        self.tracking = DdsTrackerNode(model, values, self.node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.node.spin, args=(self._ended.is_set,))

    def __enter__(self) -> Local:
        self.tracking.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.tracking.__exit__(None, None, None)
        self.node.close()

    def wait_for_checks(self, count: int = 4) -> None:
        """Wait while the node checks the QoS of its endpoints that many times."""
        ticks: list[int] = []
        self.node.create_timer(CHECK_S, lambda: ticks.append(1))
        wait_for(lambda: len(ticks) >= count, "checks of the QoS")

    def _log(self, level: Any, text: str) -> None:
        self.lines.append(text)
