"""What computes: devices, backends, and what is done when memory runs out."""
