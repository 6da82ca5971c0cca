"""`python -m egg_reason.cli`."""

import sys

from egg_reason.cli import main

sys.exit(main())
