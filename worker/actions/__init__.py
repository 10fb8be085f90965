"""What a worker can do: one file or folder per action, all behind the seam in `seam.py`."""
