"""Choices of backbone that cannot be met."""

from moleflow_fast.errors import UserError


class BackboneError(UserError, ValueError):
    """An unknown backbone, layer or block, or an image size that the backbone does not take."""
