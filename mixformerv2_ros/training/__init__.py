"""Training: data, the synthetic world, losses, trainer. Needs torch."""
