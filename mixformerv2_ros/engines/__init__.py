"""Engines behind `model.engine.Engine`, and the choice between them."""
