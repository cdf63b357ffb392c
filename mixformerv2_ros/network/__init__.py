"""MixFormerV2 in torch: presets, network, checkpoints. Knows nothing of tracking or ROS."""
