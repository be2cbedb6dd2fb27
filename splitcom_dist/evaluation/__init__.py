"""`splitcom evaluate`: how good a finished run or any adapter is."""
