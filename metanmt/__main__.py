"""`python -m metanmt`, which is how `torchrun -m metanmt` starts it too."""

import sys

from metanmt.cli import main

sys.exit(main())
