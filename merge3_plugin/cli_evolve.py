"""``mergekit-evolve-merge3``: mergekit-evolve's command line, over a search on estimates."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from merge3_plugin.cli_log import JSON, log_format_option, tell
from merge3_plugin.errors import ConfigError

log = logging.getLogger(__name__)

# Flags that say how upstream schedules its work. Here each live model merges and scores one candidate after another, in
# memory, so nothing is left to say.
NEEDLESS = {
    "strategy": "a live model is given the next candidate as soon as it is free",
    "in_memory": "candidates are always merged in memory",
    "reshard": "parents are read as they are, and no candidate is written",
}
REFUSED = {
    "load_in_8bit": "--load-in-8bit: expected weights that a merge can be written into in place; leave the flag out",
    "load_in_4bit": "--load-in-4bit: expected weights that a merge can be written into in place; leave the flag out",
    "use_wandb": "--wandb: expected an observer plug-in (hook merge3_evaluation_finished), not a flag; leave it out",
}


@click.command("mergekit-evolve-merge3", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("genome-config-path", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--storage-path",
    type=click.Path(path_type=Path),
    required=True,
    help="Run folder: the record, best_config.yaml, final_model/, summary.json. The same command resumes.",
)
@click.option("--max-fevals", type=click.IntRange(1), help="Candidates to score in the search; never passed.  [100]")
@click.option("--max-items", type=click.IntRange(1), help="Items that the search may score in all; never passed.")
@click.option("--max-tokens", type=click.IntRange(1), help="Tokens that the search's models may read; never passed.")
@click.option(
    "--patience", type=click.IntRange(1), help="Candidates in a row without a better one that end the search."
)
@click.option("--timeout", type=float, help="Seconds after which the search ends, is confirmed, and is written.")
@click.option("--random-seed", type=click.IntRange(0), help="Seed of everything that is drawn.  [0]")
@click.option("--batch-size", type=click.IntRange(1), help="Batch size of scoring, fixed for the run.  [32]")
@click.option(
    "--optimizer",
    help="cma-es, lq-cma-es, ga, de, nsga2, nsga3, tpe, gp, random, grid, or a plug-in's.  [cma-es]",
)
@click.option(
    "--fidelity",
    type=click.Choice(["fixed", "racing", "halving", "hyperband"]),
    help="On how many of its anchors a candidate is scored: all, or more the better it looks.  [fixed]",
)
@click.option(
    "--baselines/--no-baselines",
    default=None,
    help="At the end, make and confirm soups, task arithmetic, and random search at the search's cost, too.  [no]",
)
@click.option("--sigma0", type=float, help="First step size of CMA-ES.  [1/6]")
@click.option("--force-population-size", type=click.IntRange(4), help="Candidates in a generation of CMA-ES.")
@click.option(
    "--task-search-path",
    multiple=True,
    help="Folder of lm-eval task YAML; may be given more than once.",
)
@click.option("--save-final-model/--no-save-final-model", default=True, help="Write final_model/.  [yes]")
@click.option("--merge-cuda/--no-merge-cuda", default=None, help="Merge and score on the GPU.  [where there is one]")
@click.option(
    "--trust-remote-code/--no-trust-remote-code", default=False, help="Run code that comes with models.  [no]"
)
@click.option("--allow-crimes/--no-allow-crimes", default=False, help="Let mergekit mix architectures.  [no]")
@click.option(
    "--i-understand-the-depths-of-the-evils-i-am-unleashing",
    "allow_benchmark_tasks",
    is_flag=True,
    help="Search on the test items of public benchmarks all the same.",
)
@click.option(
    "--strategy", "-s", type=click.Choice(["pool", "buffered", "serial"]), help="Accepted; nothing to choose."
)
@click.option("--in-memory/--no-in-memory", default=None, help="Accepted; always in memory.")
@click.option("--reshard/--no-reshard", default=None, help="Accepted; never needed.")
@click.option(
    "--num-gpus", type=click.IntRange(1), help="A live model on each of the first so many GPUs, all at work.  [1]"
)
@click.option("--vllm/--no-vllm", default=None, help="Score with vLLM (the extra vllm).  [no]")
@click.option("--load-in-8bit", is_flag=True, help="Not supported.")
@click.option("--load-in-4bit", is_flag=True, help="Not supported.")
@click.option("use_wandb", "--wandb/--no-wandb", default=False, help="Not supported: use an observer plug-in.")
@click.option("--wandb-project", help="Goes with --wandb.")
@click.option("--wandb-entity", help="Goes with --wandb.")
@log_format_option()
def evolve(genome_config_path: Path, storage_path: Path, **flags: Any) -> int:
    """Search the merge of models that does best on your tasks, and show on held-out items whether it is better.

    A drop-in for mergekit-evolve: its YAML works unchanged. Candidates are scored on a few anchor items of each task,
    and their accuracy is estimated from them. The best ones are confirmed on items that the search never read.

    \b
    genome:
      models: [org/math-7b, org/japanese-7b]
      merge_method: task_arithmetic
      base_model: org/base-7b
      layer_granularity: 8
    tasks: [my_math_task]     # any of lm-eval or --task-search-path
    merge3:                    # all of it optional
      anchors: 50              # items that each candidate is scored on
      calibration: auto        # or a file of `merge3 calibrate`
      held_out_tasks: [other]  # scored at the end: what the merge costs where nothing was searched
      seed: 0

    \b
    mergekit-evolve-merge3 config.yml --storage-path out --max-fevals 100 --baselines

    The table at the end shows each model's estimate and held-out accuracy, what the winner is worth more than the best
    parent and, with --baselines, than merges that need no search; how optimistic the search was; and what it all cost.

    Ctrl-C ends the search and writes the best so far (exit status 130); a second one stops at once. Either way, and
    after a crash, the same command goes on where it stopped. A greater --max-fevals extends a finished search, and
    --baselines may be asked of one.

    stderr shows how it goes: candidates a minute, time left, the best so far with its interval, memory. With
    --log-format json each line of it is an object with its "time" (seconds since 1970) and an "event":

    \b
    phase     phase, total: so many models are to be scored
    progress  phase, done, total, candidates_per_minute, seconds_left (of the phase), best (fitness, by estimate),
              interval (95 %), items, tokens (of the phase), memory_bytes, device_memory_bytes (on a GPU);
              outside the search label and state of the model, too. What is not known yet is null
    log       level, message
    finished  state, folder: the table is on stdout, summary.json in the folder
    stopped   message
    failed    message, status: the exit status
    """
    from merge3_plugin.cli_display import make_display
    from merge3_plugin.cli_progress import Progress
    from merge3_plugin.config import load_config
    from merge3_plugin.evolve.run import STOPPED
    from merge3_plugin.evolve.session import evolve as run
    from merge3_plugin.evolve.setting import Interrupted
    from merge3_plugin.evolve.setup import Flags
    from merge3_plugin.report.table import render

    config = load_config(genome_config_path, _overrides(flags))
    chosen = Flags(
        task_search_path=tuple(flags["task_search_path"]),
        allow_benchmark_tasks=flags["allow_benchmark_tasks"],
        save_final_model=flags["save_final_model"],
        trust_remote_code=flags["trust_remote_code"],
        allow_crimes=flags["allow_crimes"],
    )
    _hush_libraries()
    display = make_display(as_json=flags["log_format"] == JSON)
    with Progress(config.merge3.search, display) as progress:
        try:
            summary = run(config, storage_path, chosen, progress)
        except Interrupted:
            tell("stopped", "stopped before the search had a candidate; the same command goes on")
            return 130
    tell("finished", "", state=summary["state"], folder=str(storage_path))
    click.echo(render(summary), nl=False)
    files = "best_config.yaml, summary.json" + ", final_model/" * chosen.save_final_model
    click.echo(f"Everything is in {storage_path}: {files}")
    if summary["state"] not in STOPPED:
        return 0
    click.echo("Stopped before its end; the same command goes on.")
    return 130


def _hush_libraries() -> None:
    """No progress bars but ours: theirs are of steps that take milliseconds."""
    from datasets.utils.logging import disable_progress_bar as hush_datasets
    from transformers.utils.logging import disable_progress_bar as hush_transformers

    hush_datasets()
    hush_transformers()


def _overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags as config keys; ConfigError for those that cannot be served, a note for those without effect."""
    for flag, message in REFUSED.items():
        if flags[flag]:
            raise ConfigError(message)
    device: str | list[str] | None = {None: None, True: "cuda", False: "cpu"}[flags["merge_cuda"]]
    if (flags["num_gpus"] or 1) > 1:
        if device == "cpu":
            raise ConfigError(f"--num-gpus: expected 1 with --no-merge-cuda, got {flags['num_gpus']}; leave one out")
        device = [f"cuda:{number}" for number in range(flags["num_gpus"])]
    for flag, reason in NEEDLESS.items():
        if flags[flag] is not None:
            log.info("--%s: accepted, without effect: %s", flag.replace("_", "-"), reason)
    keys = {
        "merge3.search.max_fevals": flags["max_fevals"],
        "merge3.search.max_items": flags["max_items"],
        "merge3.search.max_tokens": flags["max_tokens"],
        "merge3.search.patience": flags["patience"],
        "merge3.search.timeout": flags["timeout"],
        "merge3.search.optimizer": flags["optimizer"],
        "merge3.fidelity.strategy": flags["fidelity"],
        "merge3.baselines": flags["baselines"],
        "merge3.search.sigma0": flags["sigma0"],
        "merge3.search.popsize": flags["force_population_size"],
        "merge3.seed": flags["random_seed"],
        "merge3.eval.model": {None: None, True: "vllm", False: "hf"}[flags["vllm"]],
        "merge3.eval.batch_size": flags["batch_size"],
        "merge3.device": device,
    }
    return {key: value for key, value in keys.items() if value is not None}
