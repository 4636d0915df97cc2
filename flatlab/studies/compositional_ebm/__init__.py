"""Where NCE is flat and MECO noisy: the study of 03_compositional_ebm."""
