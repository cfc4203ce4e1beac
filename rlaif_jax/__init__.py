# SPDX-License-Identifier: Apache-2.0
"""RLAIF in JAX. Importing this touches no device and imports no framework."""

__version__ = "0.1.0"
