"""Training and distillation of MixFormerV2 (torch)."""
