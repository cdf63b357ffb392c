"""`python -m mixformerv2_ros.cli`, for torchrun."""

import os
import sys

from mixformerv2_ros.cli.entry import main

code = main()
if os.environ.get("WORLD_SIZE", "1") != "1":
    # About once in ten runs a thread of torch's process group outlives the interpreter, which ends
    # in SIGABRT after all work is done ("terminate called without an active exception").
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
