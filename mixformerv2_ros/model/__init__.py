"""What a model is: architecture, bundles, checkpoint files, an engine's protocol; numpy only."""
