"""From maps to labels: decisions, objects, and settling them in the store."""
