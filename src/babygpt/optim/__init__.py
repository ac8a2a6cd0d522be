"""Gradients to update: which parameters are decayed, the optimiser, and the learning rate of every step."""
