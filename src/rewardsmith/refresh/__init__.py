"""Keeping a reward model fresh: new policy outputs, labels, retraining, release, drift and what-if studies."""
