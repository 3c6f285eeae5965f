"""The command line as a person meets it: exit status, stdout, and the one line of an error."""

import pytest

from merge3_plugin.cli import merge3, run


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Runs ``merge3 ...`` in an empty folder: (exit status, stdout, the error lines of stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        status = run(merge3, "merge3", [str(a) for a in args])
        out, err = capsys.readouterr()
        return status, out, [line for line in err.splitlines() if line.startswith("merge3: error:")]

    return call


def refused(result):
    """The one line of a refused command."""
    status, out, errors = result
    assert status == 2 and len(errors) == 1 and out == ""
    return errors[0]
