"""How near an image is to a reference: PSNR, SSIM, mean errors."""
