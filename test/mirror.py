"""A process that sends every image back; see test_dds_node.py."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable

ended = False


def end(*_: object) -> None:
    global ended
    ended = True


signal.signal(signal.SIGTERM, end)
node = Node(NodeNames("mirror"), lambda level, text: None)
back = node.create_publisher("/back", "sensor_msgs/msg/Image", reliable(1))
node.create_subscription("/there", "sensor_msgs/msg/Image", back.publish, reliable(1))
node.spin(lambda: ended)
node.close()
