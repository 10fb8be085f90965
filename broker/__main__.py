"""`python -m broker`: runs a control plane until it is told to stop."""

import sys

from broker.app import main

sys.exit(main())
