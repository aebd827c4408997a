"""What the Review dock is made of: the pair under review, the way there, the outline, keys, table, and keeping."""
