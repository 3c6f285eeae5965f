"""Fresh virtual environments with our package really installed in them, in seconds.

The dependencies are those of the running environment: links to everything in its site-packages but us. What is tested,
our own files and the .pth, is put beside them, and taken away again, by pip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party_plugin"
OURS = ("merge3", "_merge3", "lm_eval_tasks")
INHERITED = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MERGE3_AUTOLOAD", "VIRTUAL_ENV")}


@dataclass(frozen=True)
class Environment:
    """A virtual environment; ``run`` calls a command of it, outside the clone unless told."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def run(self, command: str, *arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.bin / command, *map(str, arguments)],
            cwd=cwd or self.folder,
            env={**INHERITED, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def pip(self, *arguments: object) -> None:
        done = self.run("python", "-m", "pip", "--quiet", *arguments)
        assert done.returncode == 0, done.stderr

    def install(self, *projects: object) -> None:
        self.pip("install", "--no-deps", "--no-build-isolation", "--no-index", *projects)


def _ours(entry: Path) -> bool:
    return entry.name.lower().startswith(OURS) or entry.suffix == ".pth"


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Environment]:
    """Makes an environment that has the dependencies, their commands, and nothing of ours."""

    def make() -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, symlinks=True)
        environment = Environment(folder)
        site = next(folder.glob("lib/python*/site-packages"))
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for entry in Path(place).iterdir():
                if not _ours(entry):
                    (site / entry.name).symlink_to(entry)
        for name in ("lm_eval", "mergekit-yaml"):
            _, _, script = (Path(sysconfig.get_path("scripts")) / name).read_text(encoding="utf-8").partition("\n")
            (environment.bin / name).write_text(f"#!{environment.bin / 'python'}\n{script}", encoding="utf-8")
            (environment.bin / name).chmod(0o755)
        return environment

    return make


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, as a package index would get it."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", out], cwd=ROOT, check=True)
    subprocess.run(
        [*(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"), "-w", out, *out.iterdir()],
        check=True,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def from_wheel(new_environment: Callable[[], Environment], wheel: Path) -> Environment:
    """Our wheel, and the example plug-in."""
    environment = new_environment()
    environment.install(wheel, EXAMPLE)
    return environment


@pytest.fixture(scope="session")
def editable(new_environment: Callable[[], Environment]) -> Environment:
    environment = new_environment()
    environment.install("--editable", ROOT)
    return environment
