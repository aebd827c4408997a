"""What the Compare dock is made of: scoring in a job, the table, error maps as layers, plots."""
