"""The live tracker node without its middleware: what rclpy and DDS nodes have in common."""
