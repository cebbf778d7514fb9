"""The version of this package; pyproject.toml says the same, a test compares them."""

from __future__ import annotations

VERSION = "0.1.0"
