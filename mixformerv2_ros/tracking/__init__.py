"""The tracker: boxes, crops, template memory, targets. Knows no ROS, no torch, no engine library."""
