"""Checkpoints to start a training from, and the program that made them."""
