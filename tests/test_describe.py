"""`crossframe describe`: the options of a method with what each preset makes of them."""

from typing import Annotated, ClassVar, Literal

import pytest
from click.testing import CliRunner
from pydantic import Field

from ablations.describe import option_rows, options_table, possible, value_at
from ablations.shipped import shipped_parts
from crossframe.cli import main
from methods.options import MethodConfig, Options


class Inner(Options):
    """A group."""

    share: Annotated[float, Field(ge=0, le=1)] = Field(default=0.5, description="how much")
    rate: Annotated[float, Field(gt=0)] | None = Field(default=None, description="how fast")


class Config(MethodConfig):
    """Mixes things."""

    preset: Literal["paper", "repo", "text"] = Field(default="paper", description="which")
    inner: Inner = Field(default=Inner(), description="a group")
    where: tuple[Literal["up", "down"], ...] = Field(default=("up",), description="parts")
    words: str = Field(default="", description="said")
    loud: bool = Field(default=False, description="or not")

    PRESETS: ClassVar = {
        "paper": {},
        "repo": {"inner": {"share": 1.0}, "words": "x" * 60},
        "text": {"inner": {"share": 1.0, "rate": 2.0}},
    }


def cells(config):
    made = options_table(config)
    columns = [[str(cell) for cell in column.cells] for column in made.columns]
    return {path: (default, meaning) for path, default, meaning in zip(*columns, strict=True)}


def test_values_of_presets_stand_where_they_differ():
    found = cells(Config)
    assert found["inner.share"] == ("0.5\nrepo, text: 1.0", "how much (0 to 1)")
    assert found["inner.rate"] == ("null\ntext: 2.0", "how fast (> 0, null)")
    assert found["where"] == ("[up]", "parts (list of up, down)")
    assert found["loud"] == ("false", "or not (true, false)")
    assert found["preset"] == ("paper", "which (paper, repo, text)")
    assert found["words"][0] == "\nrepo: " + "x" * 25 + "…"


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "integer", "minimum": 1}, ">= 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "> 0 and <= 1"),
        ({"anyOf": [{"const": "a"}, {"type": "null"}]}, "a, null"),
        ({"$ref": "#/$defs/X"}, "b, c"),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, "list of integer"),
        ({"type": "object"}, ""),
    ],
)
def test_limits_are_told_in_few_words(schema, told):
    assert possible(schema, {"X": {"enum": ["b", "c"]}}) == told


def test_every_option_of_every_method_is_told_with_its_meaning():
    parts = shipped_parts()
    for name in parts.methods:
        config = parts.method_config(name)
        rows = list(option_rows(config))
        assert [path for path, _, meaning in rows if not meaning] == [], name
        assert cells(config).keys() == {path for path, _, _ in rows}
        default = config.model_validate({})
        for path, _, _ in rows:
            assert isinstance(value_at(default, path), str)


def test_a_description_begins_with_what_the_presets_are():
    done = CliRunner().invoke(main, ["describe", "tuneavideo"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.index("`preset: repo` is the released code") < done.output.index(
        "tuning.train"
    )
    assert "repo: mid_up" in done.output
