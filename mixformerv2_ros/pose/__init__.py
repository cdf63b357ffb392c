"""From boxes in images to rays and positions in space: calibration, depth images, point clouds."""
