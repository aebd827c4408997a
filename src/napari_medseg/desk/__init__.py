"""The docked widgets, one module a dock. Thin: they read the viewer, start a job and show the result."""
