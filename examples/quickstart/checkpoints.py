"""Checkpoints of the specialists' trainings: what "recycling" merges."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import world
from train import Settings, encode, fit, training_items

STEPS_BETWEEN = 80
FOLDER = "checkpoints"


def prepare_checkpoints(out: Path, settings: Settings) -> None:
    """Write ``out``/checkpoints from the base in ``out``/models, unless those of these settings are there.

    Each training is the specialist's own once more, saved on the way; with the base, these are 16 models.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    done, wanted = out / FOLDER / "settings.json", {"settings": asdict(settings), "steps": STEPS_BETWEEN}
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == wanted:
        return
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(out / "models" / "base")
    model = AutoModelForCausalLM.from_pretrained(out / "models" / "base")
    base = {key: value.clone() for key, value in model.state_dict().items()}
    examples = {name: encode(training_items(name, settings), tokenizer) for name in world.OPERATIONS}

    def save(name: str) -> None:
        model.save_pretrained(out / FOLDER / name)
        tokenizer.save_pretrained(out / FOLDER / name)

    save("base")
    for number, skill in enumerate(world.SKILLS, 1):
        model.load_state_dict(base)
        course = settings.course(skill)

        def after(step: int, skill: str = skill) -> None:
            if step % STEPS_BETWEEN == 0:
                save(f"{skill}-{step}")

        fit(model, course, examples, batch_size=settings.batch_size, seed=100 * settings.seed + number, after=after)
        print(f"saved the checkpoints of {skill}", flush=True)
    done.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
