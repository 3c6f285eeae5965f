"""The run config: mergekit-evolve's YAML unchanged, plus one block ``merge3:`` for what is ours."""

from merge3_plugin.config.evaluation import EvalConfig
from merge3_plugin.config.run import (
    AnchorMethod,
    GenomeConfig,
    LogsConfig,
    Merge3Config,
    RunConfig,
    TaskConfig,
    load_config,
    parse_config,
)
from merge3_plugin.config.search import FidelityConfig, SearchConfig
from merge3_plugin.config.spaces import SpaceConfig

__all__ = [
    "AnchorMethod",
    "EvalConfig",
    "FidelityConfig",
    "GenomeConfig",
    "LogsConfig",
    "Merge3Config",
    "RunConfig",
    "SearchConfig",
    "SpaceConfig",
    "TaskConfig",
    "load_config",
    "parse_config",
]
