"""How good labels are, where they are wrong, and which of several is better. Headless."""
