"""Sub-commands of `mixformerv2`: `add_arguments(parser)` and `run(args) -> exit code` each."""
