"""The referee of policy-gradient estimators for language models."""

__version__ = "0.1.0"
