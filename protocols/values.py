"""Scalar types that the travelling values are built from, each with its limit."""

from typing import Annotated

from pydantic import ConfigDict, Field

Id = Annotated[str, Field(strict=True, min_length=1, max_length=80)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=128)]
Text = Annotated[str, Field(strict=True, max_length=8192)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Flag = Annotated[bool, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=10 * 366 * 86400, allow_inf_nan=False)]
Measure = Annotated[float, Field(strict=True, ge=0, le=2**63, allow_inf_nan=False)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=2**53)]
"""Since the Unix epoch, UTC."""
Blob = Annotated[bytes, Field(strict=True, max_length=2 * 1024 * 1024)]
Key = Annotated[bytes, Field(strict=True, min_length=32, max_length=32)]
"""A raw Ed25519 or X25519 public key, a nonce or a SHA-256."""
Signature = Annotated[bytes, Field(strict=True, min_length=64, max_length=64)]

FROZEN = ConfigDict(hide_input_in_errors=True)
