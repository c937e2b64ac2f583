"""Config files as users write them: what is read, and which messages refuse the rest."""

import os
import warnings
from pathlib import Path

import pyparsing
import pytest

from afa.config.formatting import format_settings
from afa.config.hocon import load_settings, parse_settings
from afa.config.settings import Settings
from afa.errors import ConfigError
from tests.config.config_files import BASE, refused, write

pytestmark = pytest.mark.usefixtures("folder")

TWO_STAGES = (
    "first_stage { reg_type = ast, alpha = 0.1, lr = 0.5 }\nsecond_stage { reg_type = act, alpha = 0.15, lr = 0.4 }\n"
)


def load(text: str, *overrides: str) -> Settings:
    return load_settings(write(BASE + text), overrides)


def problems(text: str, *overrides: str) -> list[str]:
    """The messages about ``text``, which starts on line 6 of the file."""
    return refused(write(BASE + text), *overrides)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "pre_trained_path =\nlr = 0.1",
            "6: pre_trained_path: nothing after '='; write pre_trained_path = \"\" for none, or a path in quotes",
        ),
        ("lr = # later", "6: lr: nothing after '='; write a value, or no line"),
        ("lr += 0.1", "6: lr: '+=' is not supported; write the complete value after '='"),
        ("\nlr 0.1\nmomentum = 0.9", "7: lr 0.1: no '=' after the key; write lr = 0.1"),
        ("batch_size = 5d", "6: batch_size: 5d reads as a duration; put the value in quotes"),
        ("seed = 10 s # note", "6: seed: 10 s reads as a duration; put the value in quotes"),
        ("exp_id = resnet 1d", "6: exp_id: 1d reads as a duration; put the value in quotes"),
        ("exp_id = 3d_net", "6: exp_id: 3d reads as a duration; put the value in quotes"),
        ('exp_id = "a"1m', "6: exp_id: 1m reads as a duration; put the value in quotes"),
        ("aligned_layers = [a\n 3 days]", "7: aligned_layers: 3 days reads as a duration; put the value in quotes"),
        ("exp_id = x@y", "6: exp_id: '@' outside quotes; put the value in quotes"),
        ("exp_id = a=b", "6: exp_id: '=' outside quotes; put the value in quotes"),
        ("exp_id = C:\\new", "6: exp_id: '\\' outside quotes; put the value in quotes"),
        ("lr = 0.1\n\nlr = 0.2", "8: lr: set twice in this file (line 6 and 8); keep one"),
        ("lr = 0.1\nlr.x = 0.2", "7: lr.x: lr is a value, set in c.hocon:6; it cannot have keys"),
        ('exp_id = "a\nlr = 0.1', "6: this quote is not closed on its line"),
        ("first_stage {\n lr = 0.1\n", "6: this '{' is never closed"),
        ("aligned_layers = [a, b\n", "6: this '[' is never closed"),
        ("lr = 0.1\n}", "7: '}' where a key is expected"),
        ("a {" * 9 + "}" * 9, "6: nested deeper than 8 brackets"),
        ("aligned_layers = " + "[" * 2000 + "]" * 2000, "6: nested deeper than 8 brackets"),
        ("日本 = 1", "6: cannot read '日本 = 1'; write one key = value per line, strings in quotes"),
        ("alpha2 = ${lr2}\nlr2 = ${alpha2}", "6: Cannot resolve ${lr2}, ${alpha2}. Check for cycles."),
        ("trian.lr = 5", "6: trian: unknown key"),
        ('"lr.x" = 5', "6: lr.x: unknown key; did you mean 'lr'?"),
        ("lr = null", "6: lr: expected a number, for example 0.01, got nothing"),
        ("lr = 1.e-3", "6: lr: expected a number, for example 0.01, got the string '1.e-3'; write 0.001"),
        ("lr = inf", "6: lr: expected a number, for example 0.01, got the string 'inf'"),
        ("lr = 1e400", "6: lr: inf is out of range; expected at least 0"),
        ("max_iter = inf", "6: max_iter: expected an integer, got the string 'inf'"),
        ("max_iter = 2.7", "6: max_iter: expected an integer, got float 2.7"),
        ("max_iter = true", "6: max_iter: expected an integer, got true"),
        ("max_iter = 1_000", "6: max_iter: expected an integer, got the string '1_000'; write 1000"),
        ("exp_id = a{b}", "6: exp_id: '{' outside quotes; put the value in quotes"),
        ("exp_id = a[b]", "6: exp_id: '[' outside quotes; put the value in quotes"),
        ("exp_id = [a] b", "6: exp_id: 'b' outside quotes; put the value in quotes"),
        ("resume = yes", "6: resume: expected true or false, got 'yes'; write true"),
        ("pretrain_path = null", "6: pretrain_path: expected a string, got nothing"),
        ("lr = [1, {a = 2}]", "6: lr: expected a number, for example 0.01, got list [1, {'a': 2}]"),
        (f"first_stage {{\n{'first_stage.' * 2000}lr = 1 }}", "7: a key of more than 32 names"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_its_fix(text: str, line: str) -> None:
    assert problems(text) == [f"c.hocon:{line}"]


@pytest.mark.parametrize(
    "text", ["exp_id = ${HOSTILE}", "exp_id = ${?HOSTILE}", 'include "base.hocon"\nexp_id = ${?HOSTILE}"x"']
)
def test_the_environment_is_not_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE", "secret")
    write("exp_id = lost\n", "base.hocon")
    advice = "HOSTILE is not set in this config; environment variables are not read, write the value"
    assert advice in "".join(problems(text))


def test_nor_for_a_key_made_from_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("exp_id", "secret")
    assert "exp_id is not set before this line" in problems('exp_id = ${exp_id}"x"')[0]


def test_what_only_looks_like_a_duration_stays_a_string() -> None:
    settings = load('exp_id = "5d" // note\noutpath = http://x:5d/a#b\npre_trained_path = """3 days"""\n')
    assert (settings.run.exp_id, settings.run.outpath) == ("5d", "http://x:5d/a")
    assert settings.run.pre_trained_path == "3 days"


def test_all_syntax_errors_come_at_once_and_then_all_others_also_through_an_include() -> None:
    write("lr = fast\nseed =\n", "shared/base.hocon")
    text = 'include "shared/base.hocon"\n' + BASE + "pre_trained_path =\nmax_iter = 2.7\nbatch_sise = 3\n"
    assert refused(write(text), "momentum=2", "momentum.x", "alpha=null") == [
        "c.hocon:7: pre_trained_path: nothing after '='; write pre_trained_path = \"\" for none, or a path in quotes",
        "command line: momentum.x: expected key=value, for example batch_size=32",
        "command line: alpha: null is not a value; alpha= sets an empty string",
        "shared/base.hocon:2: seed: nothing after '='; write a value, or no line",
    ]
    write("lr = fast\nseed = 1\n", "shared/base.hocon")
    assert refused(write(text.replace("path =", 'path = ""')), "momentum=2") == [
        "c.hocon:8: max_iter: expected an integer, got float 2.7",
        "c.hocon:9: batch_sise: unknown key; did you mean 'batch_size'?",
        "command line: momentum: 2.0 is out of range; expected 0 to 1",
        "shared/base.hocon:1: lr: expected a number, for example 0.01, got the string 'fast'",
    ]


def test_a_missing_key_is_named_without_a_line() -> None:
    lines = refused(write('target_dataset = "CUB"\nfirst_stage { reg_type = ast, lr = x }\n'))
    assert lines[:2] == [
        "c.hocon: target_data_dir: missing: folder that contains the data sets",
        "c.hocon: base_model_name: missing: torchvision's name of the network",
    ]
    assert lines[2].startswith("c.hocon: first_stage.alpha: missing: AST needs it")
    assert lines[3].startswith("c.hocon:2: first_stage.lr: expected a number")


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("lr", "lr: expected key=value, for example batch_size=32"),
        ("--lr=1", "--lr=1: expected key=value, for example batch_size=32"),
        ('first_stage={"lr":1}', "first_stage: a block cannot be set; set its keys one by one, first_stage.key=value"),
        ("lr=fast", "lr: expected a number, for example 0.01, got the string 'fast'"),
        ("first_stage.repeat=2", "first_stage.repeat: is not a setting of a stage; set it outside the stage blocks"),
    ],
)
def test_a_wrong_argument_of_the_command_line_is_named(argument: str, line: str) -> None:
    assert problems("", argument)[-1] == f"command line: {line}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", ""), ('"7"', "7")),
        *((text, text) for text in ("2024", "007", "1e5", "2024.1", "true", "null", "NaN", "5d", "[1]", '{"a": 1}')),
        *((text, text) for text in ("${HOME}", 'a"b\\n', "a=b", "日本", 'include "x"', "a # b\t// c\n d")),
    ],
)
def test_a_string_of_the_command_line_is_taken_as_it_is(text: str, value: str) -> None:
    keys = ("exp_id", "pre_trained_path", "target_dataset", "first_stage.channel_weight_path")
    settings = load("exp_id = other\nfirst_stage {}", *(f"{key}={text}" for key in keys))
    run, stage = settings.run, settings.stages[0]
    assert (run.exp_id, run.pre_trained_path, settings.data.dataset, stage.channel_weight_path) == (value,) * 4


@pytest.mark.parametrize("text", ["2024", "007", "1e5", "2024.10", "-3", "TRUE"])
def test_a_number_or_boolean_in_a_file_is_text_for_a_string(text: str) -> None:
    settings = load(f"exp_id = {text}\nfirst_stage {{ attention_path = {text} # a run\n }}")
    assert (settings.run.exp_id, settings.stages[0].attention_path) == (text, text)


def test_the_command_line_wins_over_blocks_includes_and_renamed_keys() -> None:
    write(BASE.replace("reg_type", "loss_type = CrossEntropyLoss\nreg_type") + "lr = 0.9\n", "base.hocon")
    path = write('include "base.hocon"\n' + TWO_STAGES + "source_weights = ours\n")
    settings = load_settings(path, ["lr=0.1", "second_stage.lr=0.3", "pretrain_path=theirs", "first_stage.alpha=1"])
    assert [(stage.learning_rate, stage.alpha) for stage in settings.stages] == [(0.1, 1.0), (0.3, 0.15)]
    assert settings.backbone.source_weights == "theirs"
    stages = load_settings(path, ["reg_type=l2", "lr=0.1", "alpha=0.2"]).stages
    assert [(stage.method, stage.learning_rate, stage.alpha) for stage in stages] == [("l2", 0.1, 0.2)] * 2
    assert load("", "lr=1", "lr=2").stages[0].learning_rate == 2


@pytest.mark.parametrize(
    ("include", "text", "arguments", "stage"),
    [
        ("", "first_stage { search.alpha = [1] }", ["first_stage.alpha=0.5"], (0.5, (), 4500, 0)),
        ("", "first_stage { search.alpha = [1] }", ["alpha=0.5"], (0.5, (), 4500, 0)),
        ("first_stage { search.alpha = [1] }", "first_stage { alpha = 0.5 }", [], (0.5, (), 4500, 0)),
        ("search.alpha = [1]", "first_stage { alpha = 0.5 }", [], (0.5, (), 4500, 0)),
        ("search.alpha = [1]", "search.repeat = 2\nfirst_stage { alpha = 0.5 }", [], (0.5, (), 4500, 0)),
        ("search.repeat = 2", "search { alpha = [1] }\nfirst_stage {}", [], (0.1, (1.0,), 4500, 0)),
        ("", "first_stage { alpha = 0.5 }", ["search.alpha=[1]"], (0.5, (1.0,), 4500, 0)),
        ("", "first_stage { alpha = 0.5 }", ["search.alpha=[1]", "first_stage.alpha=0"], (0.0, (), 4500, 0)),
        ("", "first_stage { epochs = 3 }", ["max_iter=6"], (0.1, (), 6, 0)),
        ("", "first_stage { epochs = 3 }", ["max_iter=6", "first_stage.epochs=2"], (0.1, (), 6, 2)),
        ("", "first_stage { max_iter = 3 }", ["epochs=6"], (0.1, (), 3, 6)),
        ("epochs = 3", "max_iter = 6\nfirst_stage {}", [], (0.1, (), 6, 0)),
        ("max_iter = 6", "epochs = 3\nfirst_stage {}", [], (0.1, (), 6, 3)),
        ("max_iter = 6", "first_stage { epochs = 3 }", ["epochs=2", "max_iter=7"], (0.1, (), 7, 0)),
        ("", "first_stage { reg_type = l2_fe, max_iter = 6 }", ["epochs=0"], (0.1, (), 6, 0)),
    ],
)
def test_of_two_exclusive_keys_the_one_of_higher_precedence_applies(include, text, arguments, stage) -> None:
    """Order: alpha, search.alpha, max_iter, epochs."""
    write(f"{BASE}{include}\n", "base.hocon")
    first = load_settings(write(f'include "base.hocon"\n{text}\n'), arguments).stages[0]
    assert (first.alpha, first.search_alpha, first.max_iter, first.epochs) == stage


@pytest.mark.parametrize("keys", [("pretrain_path", "source_weights"), ("source_weights", "pretrain_path")])
def test_of_a_key_and_its_released_name_the_later_wins(keys: tuple[str, str]) -> None:
    assert load(f"{keys[0]} = early\n{keys[1]} = late\n").backbone.source_weights == "late"
    write(f"{keys[1]} = early\n{keys[0]} = early\n", "base.hocon")
    assert load(f'include "base.hocon"\n{keys[1]} = late\n').backbone.source_weights == "late"
    assert load("", f"{keys[1]}=a", f"{keys[0]}=b", f"{keys[1]}=c").backbone.source_weights == "c"


def test_substitutions_see_includes_later_keys_and_the_command_line() -> None:
    path = 'pre_trained_path = ${base_model_name}"_"${target_dataset}"_AST"\n'
    write(path, "shared/stage.hocon")
    config = write('include "shared/stage.hocon"\n' + BASE)
    assert load_settings(config).run.pre_trained_path == "resnet50_CUB_AST"
    assert load_settings(config, ["target_dataset=Dogs"]).run.pre_trained_path == "resnet50_Dogs_AST"
    settings = load("first_stage =\n{ lr = 0.3 }\nsecond_stage = ${first_stage}\nsecond_stage.reg_type = act\n")
    assert [(stage.method, stage.learning_rate) for stage in settings.stages] == [("ast", 0.3), ("act", 0.3)]


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_a_config_of_the_released_code_loads(line_end: str) -> None:
    text = """\ufeff# of the released code
target_dataset = "Stanford_Dogs"
target_data_dir: /data
base_task = "imagenet"
base_model_name = resnet101
gpu_id = "3"
reg_type = "pixel_att_fea_map_learn"
alpha = 0.1
beta = 0.02
gamma = 0.2
loss_type = CrossEntropyLoss
lr_scheduler = steplr # one drop
pretrain_path = w.pth
"""
    settings = load_settings(write(text.replace("\n", line_end)))
    stage = settings.stages[0]
    assert (stage.method, stage.classification, stage.head_penalty, stage.decay_factor) == (
        "ast",
        "cross_entropy",
        0.02,
        0.2,
    )
    assert (settings.data.root, settings.run.gpu_id, settings.run.mode) == ("/data", "3", "train")
    assert settings.backbone.source_weights == "w.pth"
    assert refused(write(f"{text}lr = x\n".replace("\n", line_end)))[0].startswith("c.hocon:14: lr: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mode = eval\npre_trained_path = r\n",
        TWO_STAGES + "lr_scheduler = coslr\nweight_decay = 1e-5\nvalidation_fraction = 0.1\nresume = false\n",
        "search.alpha = [0.1, 1]\nfirst_stage { epochs = 3, max_iter = 6 }\n"
        "second_stage { reg_type = lwf, epochs = 3, lwf.temperature = 3 }\n",
        'aligned_layers = ["layer1.2.conv3", layer2]\nexp_id = """q"uo\\te\n${x} # 日本 5d"""\nimage_size = 64\n',
    ],
    ids=["one stage", "eval", "two stages", "exclusive keys", "strings"],
)
def test_formatted_settings_load_back_equal(text: str) -> None:
    settings = load(text)
    formatted = format_settings(settings)
    assert load_settings(write(formatted, "again.hocon")) == parse_settings(formatted) == settings
    assert formatted.startswith('# data\ntarget_dataset = "CUB"\n')
    for key in ("first_stage", "second_stage"):
        assert formatted.count(f"{key} {{") == (len(settings.stages) == 2)


def test_settings_of_a_text_are_checked_like_those_of_a_file() -> None:
    assert parse_settings(BASE).stages[0].alpha == 0.1
    for text, line in (
        (f"{BASE}lr = x\n", "log:6: lr: expected a number"),
        (f'{BASE}include "c.hocon"\n', 'log:6: include "c.hocon": only a file can include others'),
        ("grid {}", "log: grid.networks: missing"),
        ("#" * (2**20 + 1), "log: larger than 1048576 characters"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_settings(text, "log")
        assert caught.value.lines[0].startswith(line)


def test_files_of_all_stages_are_looked_for_before_anything_starts(folder: Path) -> None:
    """Where the stage's keys are set, and only those that are used."""
    for path in ("data/CUB/train/a.png", "runs/ast/check_point/best.pth", "w.json"):
        write("", path)
    stages = "first_stage { reg_type = ast_fixed }\nsecond_stage { reg_type = act_fixed, attention_path = gone }\n"
    config = write(BASE + stages)
    arguments = ["first_stage.channel_weight_path=gone.json", "second_stage.attention_path=ast", "source_weights=x"]
    with pytest.raises(ConfigError) as caught:
        load_settings(config, arguments, check_files=True)
    assert caught.value.lines == [
        "command line: source_weights: no such file: x",
        "command line: first_stage.channel_weight_path: no such file: gone.json",
    ]
    with pytest.raises(ConfigError, match=r"^c.hocon:7: second_stage.attention_path: no checkpoint at gone or"):
        load_settings(config, check_files=True)
    settings = load_settings(config, ["attention_path=ast", "channel_weight_path=w.json"], check_files=True)
    assert [stage.attention_path for stage in settings.stages] == ["ast", "ast"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("cnf.hocon", "cnf.hocon: no such file; did you mean 'c.hocon'?"),
        ("gone/x", "gone/x: no such file"),
        ("runs", "runs: is a folder; name a file in it, for example r.hocon"),
    ],
)
def test_a_config_that_cannot_be_read_is_named_with_its_neighbour(path: str, message: str) -> None:
    write(BASE)
    write(BASE, "runs/r.hocon")
    assert refused(path) == [message]


def test_a_failure_leaves_pyparsing_and_warnings_as_they_were() -> None:
    pyparsing.ParserElement.set_default_whitespace_chars(" \n\t\r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert problems("日本 = 1")
        assert load("").run_name == "resnet50_CUB_AST"
    assert pyparsing.ParserElement.DEFAULT_WHITE_CHARS == " \n\t\r"


def test_a_config_named_from_elsewhere_keeps_its_full_name(folder: Path) -> None:
    path = folder / write("lr = x\n" + BASE)
    Path("below").mkdir()
    os.chdir("below")
    assert refused(path)[0].startswith(f"{path}:1: lr: ")
