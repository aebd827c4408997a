"""What the network is given: grids, resampling, blocks of pixels, tissue, mosaics and stacks of slices."""
