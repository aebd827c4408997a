"""Which tiles cover an image, how they become maps, and how much memory that takes."""
