"""`python -m mixformerv2_ros.cli`, for torchrun."""

import sys

from mixformerv2_ros.cli.entry import main

sys.exit(main())
