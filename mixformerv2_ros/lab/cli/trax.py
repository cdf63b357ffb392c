"""`mixformerv2 trax`: be a tracker for the VOT toolkit."""

from __future__ import annotations

import argparse

from mixformerv2_ros.ros.parameters import add_parameter_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 trax`."""
    parser.description = (
        "Speak the TraX protocol on standard input and output (or on the socket in TRAX_SOCKET), "
        "so that the VOT toolkit, or any other TraX client, can run the tracker: name this command "
        "in its trackers.ini with protocol = trax. Needs vot-trax (pip install vot-trax)."
    )
    add_parameter_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the client quits.

    Raises:
        MixFormerError: the model cannot be loaded, or the client sends what cannot be tracked.
    """
    from mixformerv2_ros.cli.shared import open_session
    from mixformerv2_ros.lab.evaluation.trax_server import require_trax, serve

    require_trax()
    serve(open_session(args))
    return 0
