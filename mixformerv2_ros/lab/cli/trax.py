"""`mixformerv2 trax`: run the tracker under the VOT toolkit."""

from __future__ import annotations

import argparse

from mixformerv2_ros.cli.parameter_options import add_parameter_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 trax`."""
    parser.description = (
        "TraX server on standard input and output, or on the socket of TRAX_SOCKET, for the VOT "
        "toolkit and other TraX clients: set this command and protocol = trax in trackers.ini. "
        "Requires pip install vot-trax."
    )
    add_parameter_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the client quits; exit code 2 if an image could not be decoded.

    Raises:
        MixFormerError: the model cannot be loaded, or the client sends what cannot be tracked.
    """
    from mixformerv2_ros.cli.shared import open_stream
    from mixformerv2_ros.cli.stream_log import StreamLog
    from mixformerv2_ros.lab.evaluation.trax_server import require_trax, serve

    require_trax()
    log = StreamLog("trax")
    serve(open_stream(args), log)
    return log.finish()
