import importlib
import json
from pathlib import Path

import pytest

from configs import attention, bc_lstm, common
from msa_jax import system
from msa_jax.config import Config, differences, resolve, to_dict
from msa_jax.errors import UserError

CONFIGS = sorted(path.stem for path in Path(common.__file__).parent.glob("*.py"))


def test_config_files_resolve_and_survive_json() -> None:
    config = resolve(attention.get_config("quick"))
    assert config.data.size == "quick"
    assert config.data.modalities == ("text", "audio", "vision")
    assert to_dict(resolve(json.loads(json.dumps(to_dict(config))))) == to_dict(config)


@pytest.mark.parametrize("variant", ["", "quick", "mosi", "mosi+context", "mosi+vectors+context"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "common"])
def test_every_config_describes_a_system(name: str, variant: str) -> None:
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    assert system.build(resolve(config)).task.kind == "three_class"
    if "vectors" in variant:
        assert config.model.encoder.num_layers == 0


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"sede": 1}, ["config.sede", "'seed'"]),
        ({"optimizer": {"learning_rte": 1.0}}, ["config.optimizer.learning_rte", "learning_rate"]),
        ({"task": {"kind": "regresion"}}, ["config.task.kind='regresion'", "'regression'"]),
        ({"training": {"batch_size": "many"}}, ["config.training.batch_size='many'", "int"]),
        ({"training": {"batch_size": 0}}, ["config.training.batch_size=0", "at least 1"]),
        ({"training": {"batch_size": True}}, ["config.training.batch_size=True", "int"]),
        ({"training": {"batch_size": 10, "accumulate": 3}}, ["10", "multiple", "accumulate=3"]),
        ({"data": {"modalities": "text"}}, ["config.data.modalities='text'", "list"]),
        ({"data": {"modalities": ()}}, ["config.data.modalities", "empty"]),
        ({"data": {"modalities": ("text", "text")}}, ["repeats"]),
        ({"data": {"path": "a.pkl", "name": "mosei"}}, ["a.pkl", "mosei", "give one"]),
        (
            {"data": {"name": "mosei", "split_column": "fold"}},
            ["split_column=fold", "config.data.path"],
        ),
        ({"data": 3}, ["config.data", "section"]),
        ({"task": {"kind": "regression", "loss": "cross_entropy"}}, ["l1, l2 or huber"]),
        ({"task": {"loss": "l1"}}, ["cross_entropy"]),
        ({"optimizer": {"weight_decay": 0.1}}, ["adamw"]),
        ({"task": {"kind": "regression", "class_weights": "balanced"}}, ["classes"]),
        ({"init": {"freeze": True}}, ["config.init.encoders"]),
        ({"seed": -1}, ["config.seed=-1", "at least 0"]),
        ({"seed": 2**32}, ["config.seed=4294967296", "at most"]),
        ({"seed": 2**32 - 1, "num_seeds": 2}, ["beyond", "use at most --config.seed=4294967294"]),
    ],
)
def test_refusals_name_the_field(mapping: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        resolve(mapping)
    for word in words:
        assert word in str(error.value)


def test_whole_numbers_pass_as_floats() -> None:
    assert resolve({"optimizer": {"clip_norm": 5}}).optimizer.clip_norm == 5.0


def test_differences_name_fields_but_not_places() -> None:
    old = resolve({"seed": 1, "data": {"dir": "a"}, "model": {"name": "early"}})
    new = {"seed": 2, "data": {"dir": "b"}, "model": {"name": "late"}, "mesh": {"data": 1}}
    new = resolve({**new, "training": {"steps_per_loop": 3}})
    lines = differences(old, new)
    assert [line.split(":")[0] for line in lines] == ["config.model.name", "config.seed"]
    assert differences(old, old) == []


def test_a_field_that_came_later_had_its_default() -> None:
    old = {"name": "early", "encoder": {"width": 8}}
    new = {**old, "encoder": {"width": 8, "layers": "unrolled", "remat": "cheap"}}
    new["context"] = {"kind": "none", "width": 64}
    assert differences(resolve({"model": old}), resolve({"model": new})) == []
    new["encoder"] |= {"layers": "scanned"}
    (line,) = differences(resolve({"model": old}), resolve({"model": new}))
    assert line == "config.model.encoder.layers: 'unrolled' there, 'scanned' now"


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = resolve(
        {
            "data": {"path": "a.npz", "dir": "~/data"},
            "init": {"encoders": ("gs://bucket/run", "../run")},
        }
    )
    assert config.data.path == str(tmp_path / "a.npz")
    assert config.data.dir == "/home/someone/data"
    assert config.init.encoders == ("gs://bucket/run", str(tmp_path.parent / "run"))


def test_common_shows_every_field() -> None:
    assert set(common.get_config()) == set(to_dict(Config()))


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="no variant 'quik'"):
        attention.get_config("quik")


def test_variants_are_joined_in_any_order() -> None:
    one, other = (
        attention.get_config(name) for name in ("mosi+vectors+context", "vectors+context+mosi")
    )
    assert one.to_dict() == other.to_dict()
    assert (one.model.context.kind, one.training.batch_size) == ("recurrent", 8)
    assert one.optimizer.name == "adamw"
    encoder = one.model.encoder
    assert (encoder.num_layers, encoder.norm, encoder.dropout) == (0, "post", 0)
    assert not one.model.context.residual
    assert attention.get_config("mosi+context").model.context.residual
    for name in ("quick+vectors", "mosi+quick", "quick"):
        short = attention.get_config(name).training
        assert (short.epochs, short.patience) == (8, 0)
    assert bc_lstm.get_config("quick").training.epochs == 8
    with pytest.raises(ValueError, match=r"no variant 'qick'.*mosi, context, vectors"):
        attention.get_config("mosi+qick")
