"""Judging trackers on annotated sequences: data sets, metrics, one-pass runs, tables."""
