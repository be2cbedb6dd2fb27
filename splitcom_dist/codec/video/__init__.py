"""Our codec: activations by position within an error bound, gradients unbiased."""
