"""Pure tensor code: what crosses the cut, in which form, and how both ends stay equal."""
