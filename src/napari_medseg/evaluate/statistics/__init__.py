"""Models over many cases: paired tests, intervals, corrections, ranks."""
