"""A candidate against a reference on one case: which labels, which metrics, in which unit."""
