import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils import UserError
from utils.config.files import deep_merge, parse_assignment, read_config, set_by_path, split_path
from utils.config.schema import KNOWN_KEYS
from utils.files import differences


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / name

    return write


def test_three_formats_read_alike(write):
    expected = {"name": "x", "trainer": {"epochs": 3, "lr": 1e-3, "monitor": "off", "on": True}, "metrics": ["a"]}
    assert read_config(write("a.json", expected)) == expected
    yaml = "name: x\ntrainer: {epochs: 3, lr: 1e-3, monitor: off, on: true}\nmetrics: [a]\n"
    assert read_config(write("a.yaml", yaml)) == expected
    toml = 'name = "x"\nmetrics = ["a"]\n[trainer]\nepochs = 3\nlr = 1e-3\nmonitor = "off"\non = true\n'
    assert read_config(write("a.toml", toml)) == expected


@given(st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)))
def test_yaml_reads_json_scalars_as_json_does(value):
    import yaml

    from utils.config.yaml_loader import ConfigLoader

    assert yaml.load(json.dumps({"a": value}), Loader=ConfigLoader) == {"a": value}


def test_base_is_inherited_deeply_and_relative_to_the_file(tmp_path, write):
    (tmp_path / "sub").mkdir()
    write("base.json", {"name": "base", "trainer": {"epochs": 1, "save_dir": "s"}})
    write("more.yaml", "trainer: {epochs: 2}\n")
    child = write("sub/child.json", {"base": ["../base.json", "../more.yaml"], "trainer": {"monitor": "off"}})
    assert read_config(child) == {"name": "base", "trainer": {"epochs": 2, "save_dir": "s", "monitor": "off"}}


def test_a_section_of_another_type_does_not_inherit_the_args():
    under = {"optimizer": {"type": "Adam", "args": {"lr": 1, "amsgrad": True}}}
    assert deep_merge(under, {"optimizer": {"type": "SGD", "args": {"lr": 2}}})["optimizer"] == {
        "type": "SGD",
        "args": {"lr": 2},
    }
    assert deep_merge(under, {"optimizer": {"args": {"lr": 2}}})["optimizer"]["args"] == {"lr": 2, "amsgrad": True}


@pytest.mark.old_defect(12)
def test_partial_section_keeps_the_rest():
    merged = deep_merge({"trainer": {"epochs": 1, "save_dir": "s"}}, {"trainer": {"epochs": 2}})
    assert merged == {"trainer": {"epochs": 2, "save_dir": "s"}}


JSON = st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner))


SECTIONS = st.dictionaries(st.sampled_from("abc"), JSON)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine the first example takes long
@given(SECTIONS, SECTIONS)
def test_merge_takes_every_value_of_the_upper_and_changes_neither(under, over):
    before = json.dumps([under, over])
    merged = deep_merge(under, over)
    assert json.dumps([under, over]) == before
    assert deep_merge(merged, over) == merged and deep_merge(under, {}) == under
    assert merged.keys() == under.keys() | over.keys()


def test_own_section_called_base_is_no_inheritance(write):
    assert read_config(write("a.json", {"base": {"type": "x"}})) == {"base": {"type": "x"}}


def test_yaml_integers_are_decimal(write):
    assert read_config(write("a.yaml", "a: 010\nb: 08\nc: -3\n")) == {"a": 10, "b": 8, "c": -3}


def test_schema_line_for_editors_is_no_section(write):
    assert read_config(write("a.json", {"$schema": "x", "name": "y"})) == {"name": "y"}


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.json", "", "is empty"),
        ("a.json", "{", "not JSON: line 1, column 2"),
        ("a.json", '{"a": 1,\n "b": 2,\n}', "not JSON: line 2, column 8: one comma too many, before }"),
        ("a.json", '{"a": [1, 2 , ]}', "not JSON: line 1, column 13: one comma too many, before ]"),
        ("a.json", '{"a": 1\n "b": 2}', "not JSON: line 1, column 8: a comma is missing here"),
        ("a.json", '{"a": [1 2]}', "not JSON: line 1, column 9: a comma is missing here"),
        ("a.json", '{"a": [1}', "not JSON: line 1, column 9: Expecting ',' delimiter"),
        ("a.json", '{"a": 1.}', "not JSON: line 1, column 8: Expecting ',' delimiter"),
        (
            "a.json",
            '{"a": 1 // b\n}',
            "not JSON: line 1, column 9: a comment; remove it, or write the config as YAML",
        ),
        ("a.json", '{"a": 1, # b\n}', "not JSON: line 1, column 10: a comment"),
        ("a.json", "{'a': 1}", "not JSON: line 1, column 2: JSON writes texts in double quotes"),
        ("a.json", '{"a": True}', "not JSON: line 1, column 7: JSON writes true, false and null"),
        ("a.json", '{"a": ,}', "not JSON: line 1, column 7: Expecting value"),
        ("a.json", '{"a": "b\n,}"}', "not JSON: line 1, column 9: Invalid control character"),
        ("a.json", '{"a": 1', "not JSON: line 1, column 8: Expecting ',' delimiter"),
        ("a.json", "[1]", "holds list; a config is an object"),
        ("a.json", '{"a": 1, "a": 2}', "'a' is given twice"),
        ("a.json", '{"a": NaN}', "NaN is not a JSON value"),
        ("a.json", '{"a":' * 10_000, "nested too deeply"),
        ("a.json", " " * 100_001, "larger than"),
        ("a.yaml", "a: [", "not YAML"),
        ("a.yaml", "a: 1\na: 2\n", "is given twice"),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]", "not YAML"),
        ("a.yaml", "1: 2", "a key is text"),
        ("a.toml", "a =", "not TOML"),
        ("a.toml", "a = 2020-01-01", "a: got"),
        ("a.txt", "a", "a config ends in"),
        ("a.json", '{"seed": ' + "1" * 5000 + "}", "not JSON: "),
        ("a.json", '{"a": 1e999}', "a: got inf"),
        ("a.json", '{"a":' * 900 + "1" + "}" * 900, "nested too deeply"),
        ("a.yaml", "a: &a [*a]", "nested too deeply"),
        ("a.yaml", "a: !!timestamp x", "not YAML"),
        ("a.yaml", "a: !!int x", "not YAML"),
        ("a.json", '{"base": "a\\u0000b"}', "base: got 'a.x00b'; a text holds neither NUL"),
        ("a.json", '{"base": "a\\nb"}', "base: got 'a.nb'; it should be the path of a file"),
        ("a.json", '{"base": "' + "a" * 256 + '"}', "it should be the path of a file"),
        ("a.json", '{"a\\u001b": 1}', "'a.x1b': a key is one line of printable text"),
        ("a.json", '{"a": {"b\\u202e": 1}}', "a: 'b.u202e': a key is one line of printable text"),
        ("a.json", '{"a\\ud800": 1}', "a key is one line of printable text"),
        ("a.json", '{"a": "b\\ud800"}', "a: got 'b.ud800'; a text holds neither NUL nor half of a surrogate"),
        ("a.yaml", 'a: "b\\ud800"', "a: got 'b.ud800'; a text holds neither NUL nor half of a surrogate"),
        ("a.yaml", 'a: "\\UFFFFFFFF"', "not YAML"),
        ("a.yaml", 'a: !!float "' + "9:" * 400 + '9"', "not YAML"),
        ("a.yaml", "a: !!set {b, c}", "not YAML"),
        ("a.toml", "a = " + "9" * 5000, "not TOML"),
        ("a.toml", "a = 0x" + "f" * 5000, "a: got an integer of 20000 bits; it should fit into 64"),
        ("a.json", '{"a": 18446744073709551616}', "a: got an integer of 65 bits"),
        ("a.toml", "a." * 40_000 + "a = 1", "nested too deeply"),
        ("a.toml", "'a' . " * 51 + "a = 1", "nested too deeply"),
        ("a.yaml", "[" * 90_000, "nested too deeply"),
        ("a.json", json.dumps({f"k{i}": 1 for i in range(1001)}), "holds more than 1,000 keys"),
        ("a.json", json.dumps({"a": [1] * 10_001}), "holds more than 10,000 values"),
        ("a.yaml", "a: &a [" + "1," * 9000 + "]\nb: [" + "*a," * 9000 + "]", "holds more than 10,000 values"),
        ("a.json", '{"a": 1, ' + '"b": 1, ' * 10_000 + '"a": 1}', "the key 'b' is given twice"),
        ("a.yaml", "\n".join(f"k{i}: 1" for i in range(6_000)), "holds more than 10,000 values"),
        ("a.toml", "a = inf", "a: got inf"),
        ("a.toml", "a = nan", "a: got nan"),
        (
            "a.yaml",
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{n}: &{n} [{', '.join([f'*{last}'] * 10)}]\n" for last, n in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "holds more than 10,000 values",
        ),
        ("a.json", '{"base": 3}', "base: got 3"),
        ("a.json", '{"base": "a.json"}', "inherits from itself"),
        ("a.json", '{"base": "none.json"}', "none.json: cannot read the config: No such file"),
    ],
)
def test_wrong_files_are_refused_by_name(write, name, content, word):
    path = write(name, content)
    with pytest.raises(UserError, match=word) as caught:
        read_config(path)
    assert path.parent.name in str(caught.value) and len(str(caught.value).splitlines()) == 1


def merge_bomb(levels):
    """YAML in which each mapping merges the one before it twice."""
    levels = [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: {i}}}" for i in range(1, levels)]
    return "\n".join(["a0: &a0 {k0: 0, k1: 0}", *levels])


def test_what_yaml_merges_stands_once_however_often_it_is_named(write):
    config = read_config(write("a.yaml", merge_bomb(30)))
    assert config["a29"] == {"k0": 0} | {f"k{i}": i for i in range(1, 30)}


def test_yaml_merges_as_its_specification_says(write):
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\nd: {e: &e {<<: *a, y: 4}}\nf: {<<: *e}\n"
    config = read_config(write("a.yaml", text))
    assert config["c"] == {"x": 1, "y": 1, "z": 3} and config["d"]["e"] == config["f"] == {"x": 1, "y": 4}
    with pytest.raises(UserError, match="mappings for merging"):
        read_config(write("b.yaml", "a: {<<: 3}"))


def test_what_an_alias_stands_for_is_changed_in_one_place_alone(write):
    config = deep_merge({}, read_config(write("a.yaml", "a: {b: &b {x: 1}, c: *b}")))
    set_by_path(config, "a.b.x", 2, {})
    assert config == {"a": {"b": {"x": 2}, "c": {"x": 1}}}


def test_bases_that_double_at_every_level_come_to_an_end(write):
    for i in range(26):
        write(f"{i}.json", {"base": [f"{i + 1}.json"] * 2})
    write("26.json", {"a": 1})
    with pytest.raises(UserError, match=r"26.json: the config inherits from more than 50 files"):
        read_config(write("0.json", {"base": ["1.json"] * 2}))
    assert read_config(write("few.json", {"base": ["26.json"] * 50})) == {"a": 1}


def test_a_config_and_all_it_inherits_from_are_small_together(write):
    for i in range(2):
        write(f"{i}.json", json.dumps({f"k{i}": "x" * 60_000}))
    with pytest.raises(UserError, match=r"1.json: larger than 100,000 bytes with the files that inherit from it"):
        read_config(write("both.json", {"base": ["0.json", "1.json"]}))
    for i in range(2):
        write(f"{i}.json", {f"k{i}-{j}": 1 for j in range(600)})
    with pytest.raises(UserError, match=r"both.json: holds more than 1,000 keys"):
        read_config(write("both.json", {"base": ["0.json", "1.json"]}))


def test_links_that_lead_in_a_circle_are_refused(tmp_path, write):
    (tmp_path / "link.json").symlink_to("link.json")
    with pytest.raises(UserError, match=r"link.json: cannot read the config"):
        read_config(write("a.json", {"base": "link.json"}))


def test_keys_that_are_set_are_printable_too():
    with pytest.raises(UserError, match=r"arch.args: 'a.x1b': a key is one line of printable text"):
        set_by_path({"arch": {"args": {}}}, "arch.args.a\x1b", 1, {})


def test_binary_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_config(tmp_path / "a.json")
    with pytest.raises(UserError, match="No such file"):
        read_config(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=5", 5),
        ("a.b=max val_accuracy", "max val_accuracy"),
        ("a.b=[1,2]", [1, 2]),
        ("a.b=true", True),
        ("a.b=", ""),
    ],
)
def test_assignment_is_json_else_text(text, value):
    assert parse_assignment(text) == ("a.b", value)


def test_assignment_without_a_value_is_refused():
    with pytest.raises(UserError, match="key=value"):
        parse_assignment("a.b")


@pytest.mark.old_defect(17)
@pytest.mark.parametrize("target", ["a;b;c", "a.b.c", ("a", "b", "c")])
def test_paths_have_three_forms(target):
    assert split_path(target) == ["a", "b", "c"]
    config = {"a": {"b": {"c": 1}}}
    set_by_path(config, target, 2, {})
    assert config["a"]["b"]["c"] == 2


def test_list_entries_are_counted_from_0():
    config = {"metrics": [{"args": {"k": 1}}]}
    set_by_path(config, "metrics.0.args.k", 5, {})
    assert config["metrics"][0]["args"]["k"] == 5
    with pytest.raises(UserError, match="the list has 1 entries"):
        set_by_path(config, "metrics.1.args.k", 5, {})


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("trainer", {"epochs": 1}, {"epochs": 1, "save_dir": "saved/"}),
        ("optimizer", {"args": {"lr": 0.1}}, {"type": "Adam", "args": {"lr": 0.1, "amsgrad": True}}),
        ("optimizer", {"type": "SGD", "args": {"lr": 0.1}}, {"type": "SGD", "args": {"lr": 0.1}}),
        ("optimizer.args", {"lr": 0.1}, {"lr": 0.1, "amsgrad": True}),
        ("optimizer.args", {}, {}),
        ("loss", {"type": "mse_loss"}, {"type": "mse_loss"}),
        ("metrics.0", {"args": {"k": 5}}, {"type": "top_k_acc", "args": {"k": 5}}),
    ],
)
def test_a_section_that_is_set_is_merged_as_a_file_s_is(path, value, expected):
    config = {
        "trainer": {"epochs": 5, "save_dir": "saved/"},
        "optimizer": {"type": "Adam", "args": {"lr": 1.0, "amsgrad": True}},
        "loss": "nll_loss",
        "metrics": [{"type": "top_k_acc", "args": {"k": 3}}],
    }
    set_by_path(config, path, value, KNOWN_KEYS)
    place = config
    for key in path.split("."):
        place = place[int(key)] if isinstance(place, list) else place[key]
    assert place == expected
    value.clear()
    assert place == expected  # it shares nothing with what was given


@pytest.mark.old_defect(17)
@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("optimzer.args.lr", "did you mean 'optimizer'"),
        ("optimizer.arg.lr", "did you mean 'args'"),
        ("trainer.epocs", "trainer.epocs: no such key; did you mean 'epochs'"),
        ("name.x", "no such key; name is 'n'"),
    ],
)
def test_misspelt_path_is_refused(target, word):
    config = {"name": "n", "optimizer": {"type": "A", "args": {}}, "trainer": {"epochs": 1}}
    with pytest.raises(UserError, match=word):
        set_by_path(config, target, 1, {("trainer",): ("epochs",)})


def test_known_keys_and_args_may_be_added():
    config = {"trainer": {}, "arch": {"type": "M"}}
    set_by_path(config, "trainer.epochs", 1, {("trainer",): ("epochs",)})
    set_by_path(config, "arch.args.width", 2, {})
    assert config == {"trainer": {"epochs": 1}, "arch": {"type": "M", "args": {"width": 2}}}


def test_a_section_that_is_left_out_may_be_begun():
    config, known = {"parallel": None}, {(): ("parallel", "name"), ("parallel",): ("processes",)}
    set_by_path(config, "parallel.processes", 2, known)
    assert config == {"parallel": {"processes": 2}}
    with pytest.raises(UserError, match="name"):
        set_by_path(config, "name.first", 1, known)


def test_odd_keys_are_only_keys():
    config = {"args": {}, "metrics": ["a"]}
    set_by_path(config, "args.0", 1, {})
    assert config["args"] == {"0": 1}
    with pytest.raises(UserError, match=r"metrics.²: no such place"):
        set_by_path(config, "metrics.²", 1, {})


def test_windows_mark_before_the_text_is_passed_over(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_config(tmp_path / "a.json") == {"a": 1}


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a file"):
        read_config("/dev/zero")


def test_differences_name_path_and_both_values():
    assert differences({"a": {"b": 1}, "c": 1}, {"a": {"b": 2}, "d": None}) == [
        "a.b: 1 -> 2",
        "c: 1 -> (absent)",
        "d: (absent) -> null",
    ]


def test_several_objects_under_names_and_one_object_do_not_mix():
    one, several = {"type": "Adam", "args": {"lr": 1}}, {"a": {"type": "SGD"}, "b": {"type": "SGD"}}
    assert deep_merge({"optimizer": one}, {"optimizer": several}) == {"optimizer": several}
    assert deep_merge({"optimizer": several}, {"optimizer": one}) == {"optimizer": one}
    merged = deep_merge({"optimizer": several}, {"optimizer": {"b": {"args": {"lr": 2}}}})
    assert merged == {"optimizer": {"a": {"type": "SGD"}, "b": {"type": "SGD", "args": {"lr": 2}}}}


def test_a_trainer_of_another_type_keeps_the_settings_below():
    assert deep_merge({"trainer": {"epochs": 5}}, {"trainer": {"type": "Mine"}})["trainer"] == {
        "epochs": 5,
        "type": "Mine",
    }
