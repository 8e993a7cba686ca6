"""Images: folders and labels, decoding and cropping, calibration sets, and the digits of the demo."""
