from merge3_plugin.evolve.labels import labels


def test_a_label_is_the_shortest_end_that_no_other_name_has():
    assert labels(["/runs/a/checkpoint-100", "/runs/a/checkpoint-200/", "org/base"]) == {
        "/runs/a/checkpoint-100": "checkpoint-100",
        "/runs/a/checkpoint-200/": "checkpoint-200",
        "org/base": "base",
    }
    names = ["runs/a/checkpoint-100", "runs/b/checkpoint-100", "c/b/checkpoint-100", "checkpoint-100", "m"]
    assert list(labels(names).values()) == [
        "a/checkpoint-100",
        "runs/b/checkpoint-100",
        "c/b/checkpoint-100",
        "checkpoint-100",
        "m",
    ]


def test_hub_revisions_are_told_apart():
    names = ["org/model@step1000", "org/model@step2000", "org/model@refs/pr/1", "org/model", "other/model@step1000"]
    found = labels(names)
    assert list(found.values()) == [
        "org/model@step1000",
        "model@step2000",
        "model@refs/pr/1",
        "model",
        "other/model@step1000",
    ]
    assert labels(["org/base+org/lora", "org/base"]) == {"org/base+org/lora": "lora", "org/base": "base"}


def test_names_of_one_folder_written_twice_stay_apart():
    found = labels(["x/m", "x/m/", "/x/m"])
    assert len(set(found.values())) == 3
