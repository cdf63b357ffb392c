"""What a tracker is told by topics: stop a target, change a parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.ros.live.live_tracker import LiveTracker
from mixformerv2_ros.ros.live.log_throttle import LogThrottle
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.parameters import NODE_PARAMETERS
from mixformerv2_ros.ros.topics import SET_PARAMETER, STOP_TARGET
from mixformerv2_ros.text import printable


class CommandedMiddleware(Protocol):
    """A node that can change its parameters by name."""

    def log(self, level: Level, text: str) -> None:
        """Write one line to the node's log."""

    def change_parameter(self, name: str, value: Any) -> None:
        """Change a parameter.

        Raises:
            ParameterError: the change is refused.
        """


class RemoteCommands:
    """Does what messages on the topics `ros.topics.COMMANDS` ask for; never raises."""

    def __init__(self, tracker: LiveTracker, middleware: CommandedMiddleware) -> None:
        """Command `tracker`, whose node is `middleware`."""
        self._tracker = tracker
        self._middleware = middleware
        self._throttle = LogThrottle(middleware.log)
        self._table = {parameter.name: parameter for parameter in NODE_PARAMETERS}

    @property
    def callbacks(self) -> Mapping[str, Callable[[Any], None]]:
        """What takes the messages of each topic."""
        return {STOP_TARGET: self.receive_stop, SET_PARAMETER: self.receive_parameter}

    def receive_stop(self, message: Any) -> None:
        """Take a `std_msgs/String` with a target's name; empty: all."""
        self._throttle.burst(Level.OK, "stops", self._tracker.stop(message.data or None))

    def receive_parameter(self, message: Any) -> None:
        """Take a `diagnostic_msgs/KeyValue` with a parameter's name and its value as text."""
        try:
            parameter = self._table.get(message.key)
            if parameter is None:
                raise ParameterError(f"unknown parameter {printable(message.key)}")
            value = parameter.parse(message.value)
            self._middleware.change_parameter(parameter.name, value)
        except ParameterError as error:
            self._throttle.burst(Level.WARN, "refused", f"parameter not changed: {error}")
        else:
            self._throttle.burst(Level.OK, "changes", f"parameter {parameter.name} is {value}")
