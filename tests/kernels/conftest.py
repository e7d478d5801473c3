import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported
