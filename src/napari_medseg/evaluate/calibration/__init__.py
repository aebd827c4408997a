"""Whether probabilities mean what they say: reliability, calibration errors, temperature."""
