"""Where each logical client's model is cut, and who moves the cuts during training."""
