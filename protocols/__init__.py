"""What travels between Warren's processes: values, their encoding, and the lanes that carry them."""

PROTOCOL_VERSION = 1
"""Raised when a frame or an envelope changes in a way that an older peer would misread."""
