"""Makes the helpers beside this file importable in importlib mode, where pytest leaves sys.path alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
