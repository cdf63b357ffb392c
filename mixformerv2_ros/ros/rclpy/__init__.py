"""The nodes on rclpy."""
