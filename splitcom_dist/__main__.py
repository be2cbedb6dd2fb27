"""`python -m splitcom_dist` is the `splitcom` command."""

import sys

from splitcom_dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
