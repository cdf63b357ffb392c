"""The `mixformerv2` command; one module per sub-command."""

from mixformerv2_ros.cli.entry import main

__all__ = ["main"]
