"""Strategies that need a package which is not always installed."""

from __future__ import annotations

from importlib import import_module

from merge3_plugin.errors import ConfigError


def require(package: str, strategy: str) -> None:
    """Raise ConfigError where ``package`` is not installed, which comes with the extra of its name."""
    try:
        import_module(package)
    except ImportError as error:
        if error.name != package:
            raise
        raise ConfigError(
            f"search.optimizer: {strategy} needs {package}; pip install 'merge3-plugin[{package}]'"
        ) from None
