"""Are the images as good, and are they the same? FID, KID, precision and recall, CLIP score, PSNR, SSIM, RMSE."""
