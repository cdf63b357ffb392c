"""Files: images, videos, rosbag2 recordings, track tables; one reader and one writer of each."""
