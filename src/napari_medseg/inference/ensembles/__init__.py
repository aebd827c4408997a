"""Several models together: the mean of their probabilities, a vote, or STAPLE."""
