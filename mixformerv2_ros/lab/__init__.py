"""The laboratory: training, evaluation, export and reports. A robot does without it."""
