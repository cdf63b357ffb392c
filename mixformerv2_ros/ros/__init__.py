"""What ROS messages, parameters and nodes are made of, without a middleware."""
