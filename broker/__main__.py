"""`python -m broker`: runs a control plane until it is told to stop; with `--check` it only looks at its settings."""

import sys

from broker.app import check, main

sys.exit(check() if sys.argv[1:] == ["--check"] else main())
