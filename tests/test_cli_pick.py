"""The front in a run's folder, and one of its members by preference: a real run over tiny models."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from merge3_plugin.evolve.confirmation import CONFIRMATION
from merge3_plugin.evolve.history import read_history
from merge3_plugin.evolve.pick import choose, figures, read_preferences
from merge3_plugin.evolve.recipe import candidate_id
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.report.front_table import render_front
from tests.commands import refused
from tests.evolve.test_metrics import CHOICE, TEXT, write_task
from tests.evolve.world import evolve_here

TASKS = [{"name": "math"}, {"name": "ja"}, {"name": "text", "metric": "byte_perplexity,none", "weight": -0.01}]


def rows(seed):
    draw = random.Random(seed)
    return [
        {"id": i, "prompt": f"{draw.randrange(99)}+{i}", "choices": draw.sample("0123456789", 4), "label": i % 4}
        for i in range(60)
    ]


@pytest.fixture(scope="module")
def config(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "tasks").mkdir()
    for seed, name in enumerate(("math", "ja")):
        write_task(folder / "tasks", name, rows(seed), CHOICE)
    write_task(folder / "tasks", "text", [{"text": f"{i} + {i} = {2 * i}"} for i in range(3)], TEXT)
    base, *others = map(str, tiny_models)
    genome = {"models": others, "merge_method": "task_arithmetic", "base_model": base, "layer_granularity": 1}
    merge3 = {"anchors": 12, "auto_merges": 2, "confirm": 1, "front": 3, "dtype": "float32", "device": "cpu"}
    merge3 |= {"constraints": [{"task": "ja", "fall": 0.2}], "reference": {"math": 0.05}}
    merge3 |= {"search": {"max_fevals": 24, "popsize": 4, "scalarisation": "parego"}}
    merge3 |= {"fidelity": {"strategy": "hyperband", "eta": 2, "fewest": 6}}
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({"genome": genome, "tasks": TASKS, "merge3": merge3}))
    return path


@pytest.fixture(scope="module")
def out(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    evolve_here(config, folder)
    return folder


def front_of(out):
    return json.loads((out / "front.json").read_text())


def confirmed_of(front):
    return [member for member in front["members"] if member["held_out"]]


def rest_of(front):
    return [member for member in front["members"] if not member["held_out"]]


def test_the_folder_holds_the_front_each_member_with_its_recipe(out, tiny_models):
    base, *others = map(str, tiny_models)
    members = front_of(out)["members"]
    assert len(members) > 3
    assert sorted(path.name for path in (out / "front").iterdir()) == [
        f"front-{i + 1}.yaml" for i in range(len(members))
    ]
    for member in members:
        text = (out / member["recipe"]).read_text()
        assert text.startswith(f"# mergekit-yaml {member['label'].replace(' ', '-')}.yaml ")
        if not member["candidate"].startswith("parent:"):
            assert candidate_id(yaml.safe_load(text), [*others, base]) == member["candidate"]


def test_what_it_says_of_a_member_is_what_was_scored_on_held_out_items(out):
    store = RunStore.open(out)
    held_out = {name: body["held_out"] for name, body in store.events() if name.startswith("items ")}
    front = front_of(out)
    for member in confirmed_of(front):
        assert store.find(member["candidate"], CONFIRMATION) is not None
        for task in ("math", "ja"):
            right = store.known_answers(member["candidate"], task).right
            accuracy = sum(right[item] for item in held_out[f"items {task}"]) / len(held_out[f"items {task}"])
            assert member["held_out"][task]["accuracy"] == pytest.approx(accuracy)
        (constraint,) = member["constraints"]
        base = store.known_answers("parent:base", "ja").right
        floor = sum(base[item] for item in held_out["items ja"]) / len(held_out["items ja"]) - 0.2
        assert (constraint["below"], constraint["floor"]) == ("base", pytest.approx(floor))
        assert member["feasible"] is constraint["holds"] is (member["held_out"]["ja"]["accuracy"] >= floor - 1e-9)
    store.close()
    assert front["objectives"] == {"math": 1.0, "ja": 1.0, "text": -1.0}
    assert front["hypervolume"]["reference"] == {"math": 0.05, "ja": 0.0}
    assert all(set(member["whole"]) == {"text"} for member in front["members"])


def test_the_whole_front_is_kept_those_that_were_not_confirmed_with_their_estimates(out):
    store, front = RunStore.open(out), front_of(out)
    assert all(member["held_out"] for member in front["members"][:3]) and len(rest_of(front)) >= 2
    for member in rest_of(front):
        assert store.find(member["candidate"], CONFIRMATION) is None
        assert (member["held_out"], member["constraints"], member["non_dominated"]) == ({}, [], None)
        assert member["estimated"].keys() == {"math", "ja"} and member["whole"].keys() == {"text"}
    # By the estimates, nothing else that keeps to the constraint beats or equals all members.
    found = {r.candidate: r.values for r in read_history(store).front()}
    store.close()
    assert {member["candidate"] for member in front["members"]} <= found.keys()
    assert set(found.values()) == {found[member["candidate"]] for member in front["members"]}
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["front"]["members"]) == len(front["members"])
    assert summary["front"]["confirmed"] == len(confirmed_of(front))


def test_a_member_that_is_not_confirmed_can_be_picked_and_is_said_to_be_estimated(out, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    front = front_of(out)
    last = rest_of(front)[-1]
    last["estimated"]["math"] |= {"accuracy": 1.0, "interval": [0.9, 1.0]}
    last["feasible"] = True
    (copy / "front.json").write_text(json.dumps(front))
    status, shown, errors = command("pick", copy, "--prefer", "math=1", "--out", tmp_path / "mine")
    assert status == 0 and not errors
    assert f"{last['label']} has the least regret" in shown
    assert "Its figures are estimates, which no held-out items have confirmed." in shown
    recipe = (tmp_path / "mine" / "recipe.yaml").read_text()
    assert yaml.safe_load(recipe) == yaml.safe_load((out / last["recipe"]).read_text())
    assert (tmp_path / "mine" / "model.safetensors").is_file()
    for member in rest_of(front):
        member["feasible"] = False
    (copy / "front.json").write_text(json.dumps(front))
    assert "Its figures are estimates" not in command("pick", copy, "--prefer", "math=1", "--list")[1]


def test_members_that_others_dominate_on_held_out_items_are_marked(out):
    front = front_of(out)

    def point(member):
        accuracy = {task: member["held_out"][task]["accuracy"] for task in ("math", "ja")}
        return (accuracy["math"], accuracy["ja"], -member["whole"]["text"])

    feasible = [member for member in confirmed_of(front) if member["feasible"]]
    for member in feasible:
        others = [point(other) for other in feasible]
        beaten = any(
            all(a >= b for a, b in zip(other, point(member), strict=True)) and other != point(member)
            for other in others
        )
        assert member["non_dominated"] is not beaten


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_pick_writes_the_model_of_the_members_recipe(out, command, tmp_path):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    status, shown, errors = command("pick", out, "--prefer", "math=2,ja=1", "--out", tmp_path / "mine")
    assert status == 0 and not errors
    (label,) = [line[1:].split("  ")[1] for line in shown.splitlines() if line.startswith("*")]
    assert f"{label} has the least regret" in shown and str(tmp_path / "mine") in shown
    (member,) = [member for member in front_of(out)["members"] if member["label"] == label]
    recipe = (tmp_path / "mine" / "recipe.yaml").read_text()
    assert yaml.safe_load(recipe) == yaml.safe_load((out / member["recipe"]).read_text())
    assert recipe.splitlines()[0] == "# mergekit-yaml recipe.yaml model --random-seed 0"
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(recipe)), str(tmp_path / "model"), MergeOptions())
    ours, theirs = weights_of(tmp_path / "mine"), weights_of(tmp_path / "model")
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    # A second pick takes the place of the first.
    assert command("pick", out, "--prefer", "ja=1", "--out", tmp_path / "mine")[0] == 0


def test_listing_writes_nothing(out, command):
    before = sorted(out.iterdir())
    status, shown, _ = command("pick", out, "--list")
    assert status == 0 and sorted(out.iterdir()) == before
    assert [m["label"] for m in front_of(out)["members"]] == [
        line.strip().split("  ")[0] for line in shown.splitlines() if line.strip().startswith("front")
    ]
    status, shown, _ = command("pick", out, "--list", "--prefer", "ja=1")
    assert status == 0 and sum(line.startswith("*") for line in shown.splitlines()) == 1
    assert sorted(out.iterdir()) == before


def test_the_table_says_what_is_special_of_a_member(out):
    front = front_of(out)
    first, second = front["members"][:2]
    first |= {"candidate": "parent:base", "feasible": True, "non_dominated": False}
    second |= {"feasible": False, "constraints": [{"task": "ja", "holds": False}, {"task": "math", "holds": True}]}
    lines = render_front(front, figures(front), {"front 1": 0.0123}, "front 1").splitlines()
    (chosen,) = [line for line in lines if line.startswith("*")]
    assert chosen.endswith("1.23  dominated here; is the parent base")
    (other,) = [line for line in lines if "front 2" in line]
    assert other.endswith("-  breaks the constraint on ja")
    of_rest = [line for line in lines if any(f"{member['label']}  " in line for member in rest_of(front))]
    assert len(of_rest) == len(rest_of(front)) and all("estimated" in line for line in of_rest)
    assert any(line.startswith("Estimated: not confirmed") for line in lines)
    without = render_front({**front, "members": confirmed_of(front)}, figures(front), {})
    assert "stimated" not in without


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "as in math=1,ja=1, got none; --list"),
        (["--prefer", "maths=1"], "got 'maths'; did you mean 'math'?"),
        (["--prefer", "text=1"], "got 'text'"),
        (["--prefer", "math"], "expected TASK=WEIGHT"),
        (["--prefer", "math=2;ja=1"], "expected TASK=WEIGHT"),
        (["--prefer", "math=much"], "got 'much'"),
        (["--prefer", "math=-1,ja=1"], "weight of at least 0"),
        (["--prefer", "math=1,math=2"], "each task once"),
        (["--prefer", "math=0,ja=0"], "weight above 0"),
    ],
)
def test_a_wrong_preference_is_one_line(out, command, arguments, words):
    assert words in refused(command("pick", out, *arguments))


def test_folders_that_cannot_serve_are_refused(out, command, tmp_path):
    assert "found none" in refused(command("pick", tmp_path, "--list"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "recipe.yaml").write_text("flour: 500 g")
    status, _, errors = command("pick", out, "--prefer", "math=1", "--out", mine)
    assert status == 2 and "expected a new or empty folder" in errors[0]
    assert (mine / "recipe.yaml").read_text() == "flour: 500 g"


def test_a_run_without_a_front_says_what_to_do(out, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    (copy / "front.json").unlink()
    assert "one of a single best merge, which is in final_model/" in refused(command("pick", copy, "--list"))
    (copy / "summary.json").unlink()
    assert "expected a finished run" in refused(command("pick", copy, "--list"))


def test_parents_that_have_changed_are_refused(out, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    with sqlite3.connect(copy / "run.sqlite") as record:
        record.execute("""UPDATE meta SET value = '[{"config.json": [1, "0"]}]' WHERE key = 'model 1'""")
    record.close()
    status, _, errors = command("pick", copy, "--prefer", "math=1")
    assert status == 2 and "it has changed; search again" in errors[0] and not (copy / "picked").exists()


def a_front(*accuracies, feasible=None, signs=None):
    """A front of members with these accuracies in the tasks a, b, ..."""
    signs = dict(zip("abc", signs or [1.0] * len(accuracies[0]), strict=False))
    members = [
        {
            "label": f"front {place + 1}",
            "estimated": (scores := {task: {"accuracy": accuracy} for task, accuracy in zip("abc", of, strict=False)}),
            "held_out": scores,
            "feasible": feasible is None or feasible[place],
        }
        for place, of in enumerate(accuracies)
    ]
    return {"objectives": signs, "members": members}


def picked(front, prefer):
    return choose(front, read_preferences(prefer, front))


def test_a_compromise_is_picked_where_the_front_bends_inwards():
    # No weighted mean is greatest in the middle: 0.45 there, at least 0.5 at one of the ends.
    front = a_front((0.9, 0.1), (0.45, 0.45), (0.1, 0.9))
    assert [picked(front, p) for p in ("a=1,b=1", "a=9,b=1", "a=1,b=9")] == ["front 2", "front 1", "front 3"]
    assert picked(front, "b=1") == "front 3"


def test_a_task_in_which_all_are_alike_decides_little():
    front = a_front((0.50, 0.600), (0.40, 0.601))
    assert picked(front, "a=1,b=1") == "front 1"


def test_signs_constraints_and_equals():
    assert picked(a_front((0.2, 0.5), (0.9, 0.5), signs=[-1.0, 1.0]), "a=1,b=1") == "front 1"
    assert picked(a_front((0.9, 0.9), (0.1, 0.2), feasible=[False, True]), "a=1,b=1") == "front 2"
    assert picked(a_front((0.1, 0.2), (0.9, 0.9), feasible=[False, False]), "a=1,b=1") == "front 2"
    assert picked(a_front((0.5, 0.2), (0.5, 0.3)), "a=1") == "front 2", "what counts nothing still decides equals"


def test_an_estimate_counts_less_what_the_search_thought_too_much_of_the_confirmed():
    front = a_front((0.6, 0.2), (0.2, 0.6), (0.5, 0.5))
    first, second, third = front["members"]
    first["estimated"], second["estimated"] = (
        {t: {"accuracy": a} for t, a in zip("ab", of, strict=True)} for of in ((0.8, 0.2), (0.3, 0.5))
    )
    third |= {"estimated": {t: {"accuracy": 0.5, "interval": (0.05, 0.98)} for t in "ab"}, "held_out": {}}
    found = figures(front)
    assert found["front 1"] == first["held_out"] and found["front 2"] == second["held_out"]
    # By hand: on average 0.15 too much of a, 0.05 too little of b.
    assert found["front 3"]["a"]["accuracy"] == pytest.approx(0.35)
    assert found["front 3"]["a"]["interval"] == pytest.approx((0.0, 0.83))
    assert found["front 3"]["b"] == {"accuracy": pytest.approx(0.55), "interval": pytest.approx((0.1, 1.0))}
    assert picked(front, "a=1,b=1") == "front 3" and picked(front, "a=1") == "front 1"
    assert picked(front, "b=1") == "front 2", "its estimate is greater than before the confirmation, not the greatest"


def test_a_task_name_may_have_a_comma():
    front = a_front((0.1, 0.2))
    renamed = json.loads(json.dumps(front).replace('"a"', '"sums:acc,none"').replace('"b"', '"sums:acc_norm,none"'))
    found = read_preferences("sums:acc,none=3,sums:acc_norm,none=1", renamed)
    assert found == {"sums:acc,none": 0.75, "sums:acc_norm,none": 0.25}


SHARES = st.integers(0, 20).map(lambda n: n / 20)


@given(st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=1, max_size=6), st.tuples(*[st.integers(1, 9)] * 3))
def test_what_is_picked_is_not_dominated_and_depends_on_ratios_alone(accuracies, weights):
    front = a_front(*accuracies)
    a, b, c = weights
    label = picked(front, f"a={a},b={b},c={c}")
    chosen = accuracies[int(label.split()[1]) - 1]
    better = [of for of in accuracies if of != chosen and all(x >= y for x, y in zip(of, chosen, strict=True))]
    assert not better
    assert picked(front, f"a={2 * a},b={2 * b},c={2 * c}") == label


def test_a_run_shows_its_front_by_estimates_until_it_has_confirmed_one(out, command, tmp_path):
    assert "Accuracy in percent on the held-out items" in command("runs", "show", out)[1]
    assert command("runs", "fork", out, tmp_path / "new", "--max-fevals", "28")[0] == 0
    text = command("runs", "show", tmp_path / "new")[1]
    table = text[text.index("The front so far has") :].split("\n\n")[1].splitlines()
    assert table[0].split() == ["candidate", "math", "ja", "text"] and len(table) >= 4
    store = RunStore.open(out)
    for line in table[2:]:
        name, math, *_ = line.split()
        of_search = [row for row in store.rows() if (row["candidate"], row["purpose"]) == (name, "search")]
        assert float(math) == pytest.approx(100 * of_search[-1]["estimates"]["math"]["accuracy"], abs=0.051)
