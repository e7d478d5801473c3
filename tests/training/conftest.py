import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `example.py`, which the tests also start as a program
