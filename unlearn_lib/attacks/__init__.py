"""Attacks on forgetting: how much of what a model was made to forget comes back when it is trained, rounded, pruned or asked otherwise."""
