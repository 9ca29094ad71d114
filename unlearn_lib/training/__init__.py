"""Training: how, the loop, and the loop with differential privacy."""
