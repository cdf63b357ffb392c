"""Names of nodes and topics, and remapping rules, as defined by ROS 2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.text import printable

_TOKEN = r"[A-Za-z_][A-Za-z0-9_]*"
_NODE = re.compile(_TOKEN)
_NAMESPACE = re.compile(rf"/|(/{_TOKEN})+")
_TOPIC = re.compile(rf"~|(~/|/)?{_TOKEN}(/{_TOKEN})*")


@dataclass(frozen=True)
class NodeNames:
    """Name and namespace of a node, and its remapping rules.

    Attributes:
        node: Name of the node.
        namespace: Its namespace, `/` or without a slash at the end.
        rules: New names by old ones, both as the user gave them.
    """

    node: str
    namespace: str = "/"
    rules: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ParameterError: a name is not a valid ROS name.
        """
        _check(_NODE, "node name", self.node)
        _check(_NAMESPACE, "namespace", self.namespace)
        for pair in self.rules.items():
            for name in pair:
                _check(_TOPIC, "topic", name)

    @property
    def full(self) -> str:
        """Namespace and name of the node."""
        return f"{self.namespace.rstrip('/')}/{self.node}"

    def expand(self, name: str) -> str:
        """Full name of a topic, not remapped: `~` stands for the node, `image` is relative.

        Raises:
            ParameterError: the name is not a valid ROS name.
        """
        _check(_TOPIC, "topic", name)
        if name.startswith("~"):
            return self.full + name[1:]
        return name if name.startswith("/") else f"{self.namespace.rstrip('/')}/{name}"

    def remapped(self, name: str) -> str | None:
        """Full name of a topic after remapping; None if no rule applies."""
        full = self.expand(name)
        for old, new in self.rules.items():
            if self.expand(old) == full:
                return self.expand(new)
        return None

    def topic(self, name: str) -> str:
        """Full name of a topic after remapping."""
        return self.remapped(name) or self.expand(name)

    def image_topic(self, base: str, transport: str) -> str:
        """Full name of an image topic; like image_transport, a rule for `image` moves both.

        Args:
            base: Name of the raw images' topic.
            transport: `raw` or `compressed`.
        """
        if transport == "raw":
            return self.topic(base)
        return self.remapped(f"{base}/{transport}") or f"{self.topic(base)}/{transport}"


def parse_names(node: str, namespace: str, remaps: Iterable[str]) -> NodeNames:
    """Read rules such as `image:=/camera/image_raw`, `__node:=eye` and `__ns:=/drone`.

    Raises:
        ParameterError: a rule or a name is invalid.
    """
    rules = {}
    for rule in remaps:
        old, separator, new = rule.partition(":=")
        if not (old and separator and new):
            raise ParameterError(f"remapping rule must be FROM:=TO, got {rule!r}")
        if old in ("__node", "__name"):
            node = new
        elif old == "__ns":
            namespace = new
        else:
            rules[old] = new
    if not namespace.startswith("/"):
        namespace = f"/{namespace}"
    return NodeNames(node, namespace.rstrip("/") or "/", rules)


def _check(pattern: re.Pattern[str], what: str, name: str) -> None:
    if not pattern.fullmatch(name):
        raise ParameterError(
            f"{what} must consist of letters, digits, _ and /, got {printable(name)!r}"
        )
