"""python -m rankcell"""

import sys

from rankcell.cli import main

sys.exit(main())
