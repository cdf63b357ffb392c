"""From boxes to bearings and positions: calibration, depth images, point clouds."""
