"""Recordings in and out: rosbag2 folders and files, videos, image folders; no ROS needed."""
