"""What stands in params.yaml is plain values; any other file ends in one sentence."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2det.config import load_params
from m2det.errors import InputError
from tests.conftest import ROOT

SHIPPED = (ROOT / "params.yaml").read_text()
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "epochs twice": (SHIPPED + "epochs: 3\n", 'found duplicate key "epochs"'),
    "lr twice": (SHIPPED.replace("  lr: ", "  lr: 0.1\n  lr: "), 'found duplicate key "lr"'),
    "long and twice": (f'"a\\x85b": {"c" * 10**5}\n' * 2, "found duplicate key"),
    "anchor": (SHIPPED.replace("seed: 49", "seed: &s 49"), "anchors (&) and aliases (*) are not read"),
    "alias": (SHIPPED.replace("seed: 49", "seed: *s"), "anchors (&) and aliases (*) are not read"),
    "billion laughs": (LAUGHS, "line 1: anchors (&)"),
    "tag": (SHIPPED.replace("seed: 49", "seed: !!int '49'"), "tags (!) are not read"),
    "python": (SHIPPED.replace("seed: 49", "seed: !!python/object/apply:os.system ['touch X']"), "tags (!)"),
    "set": ("!!set {epochs, seed}", "tags (!)"),
    "two documents": (SHIPPED + "---\nepochs: 3\n", "expected a single document"),
    "list": ("- 1\n", "must hold keys and values"),
    "number": ("5", "must hold keys and values"),
    "empty": ("", "must hold keys and values"),
    "comments": ("# epochs: 3\n", "must hold keys and values"),
    "tab": (SHIPPED.replace("  lr: ", "\tlr: "), "not valid YAML: line "),
    "NUL": (SHIPPED + "\x00", "not valid YAML"),
    "control character": (SHIPPED.replace("seed: 49", "seed: 4\x079"), "not valid YAML"),
    "bell in quotes": (SHIPPED.replace("root: ''", 'root: "a\\a"'), "data.root: takes printable characters only"),
    "deep": ("a: " + "[" * 10**5, "values are nested more than 20 deep"),
    "deep mappings": ("a: " + "{a: " * 10**5, "values are nested more than 20 deep"),
    "5,000 digits": (SHIPPED.replace("seed: 49", f"seed: 1{'0' * 5000}"), "not valid YAML: Exceeds the limit"),
    "1,000 digits": (SHIPPED.replace("seed: 49", f"seed: 1{'0' * 1000}"), "seed: input should be less than"),
    "no date": (SHIPPED.replace("seed: 49", "seed: 2026-13-45"), "month must be in 1..12"),
    "date": (SHIPPED.replace("seed: 49", "seed: 2026-01-02"), "seed: input should be a valid integer, got datetime.d"),
    "inf": (SHIPPED.replace("lr: 0.06", "lr: .inf"), "train.lr: input should be a finite number, got inf"),
    "nan": (SHIPPED.replace("lr: 0.06", "lr: .nan"), "train.lr: input should be a finite number, got nan"),
    "1e400": (SHIPPED.replace("lr: 0.06", "lr: 1e400"), "train.lr: input should be a finite number, got inf"),
    "null": (SHIPPED.replace("lr: 0.06", "lr:"), "train.lr: input should be a valid number, got None"),
    "yes": (SHIPPED.replace("sfam: true", "sfam: yes"), "model.sfam: input should be a valid boolean, got 'yes'"),
    "number as a key": (SHIPPED + "1: 2\n", "keys should be strings, got 1"),
    "list as a key": (SHIPPED + "[1, 2]: 2\n", "a key is a list or a mapping, but keys should be"),
    "mapping in a key": (SHIPPED + "? [a, {b: c}]\n: 3\n", "a key is a list or a mapping, but keys should be"),
    "mapping as a key": (SHIPPED.replace("overrides: {}", "overrides: {{a: b}: c}"), "a key is a list or a mapping"),
    "keys of one hash": ("".join(f"{k * (2**61 - 1)}: 1\n" for k in range(20_000)), "more than 10,000 values"),
    "section as a list": (SHIPPED.replace("benchmark:\n", "benchmark: []\nx:\n"), "benchmark: input should be"),
    "interpolation": (SHIPPED.replace("root: ''", "root: ${oc.env:HOME}"), "data.root: takes no '${' and no '???'"),
    "missing value": (SHIPPED.replace("root: ''", "root: '???'"), "data.root: takes no '${' and no '???'"),
    "10 MB": (SHIPPED + "# long\n" * 10**6 + "# longer\n" * 10**6, "bytes, 1,000,000 is the most"),
    "long text": (SHIPPED.replace("root: ''", f"root: {'x/' * 10**5}"), "data.root: string should have at most 1000"),
    "UTF-16": (SHIPPED.encode("utf-16"), "not valid YAML: 'utf-8' codec can't decode"),
    "latin-1": (SHIPPED.replace("root: ''", "root: \u00e9").encode("latin-1"), "not valid YAML: 'utf-8' codec can't"),
    "surrogate": (SHIPPED.replace("root: ''", "root: '\ud800'").encode("utf-8", "surrogatepass"), "not valid YAML"),
    "surrogate by escape": (SHIPPED.replace("root: ''", 'root: "\\ud800"'), ""),
}
TAKEN = {
    "BOM": "\ufeff" + SHIPPED,
    "CRLF": SHIPPED.replace("\n", "\r\n"),
    "JSON": None,
    "start and end": "---\n" + SHIPPED + "...\n",
    "other ways to write 49": SHIPPED.replace("seed: 49", "seed: 0x31"),
}


def write(path, content: str | bytes):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def is_sentence(error: InputError, path) -> str:
    text = str(error)
    assert text.startswith(str(path)) and text.isprintable() and len(text) < 1500, text
    return text


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_value_ends_in_a_sentence(tmp_path, case):
    content, sentence = REFUSED[case]
    path = write(tmp_path / "params.yaml", content)
    with pytest.raises(InputError) as error:
        load_params(path)
    assert sentence in is_sentence(error.value, path)


@pytest.mark.parametrize("case", TAKEN)
def test_other_ways_to_write_the_same(tmp_path, case):
    wanted = load_params(ROOT / "params.yaml")
    path = write(tmp_path / "params.yaml", TAKEN[case] or json.dumps(wanted.model_dump()))
    assert load_params(path) == wanted


def test_a_folder_and_nothing_are_no_params_yaml(tmp_path):
    for path in (tmp_path, tmp_path / "params.yaml"):
        with pytest.raises(InputError, match="no such file; run this in the project's folder"):
            load_params(path)


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(0, len(SHIPPED)),
    st.integers(0, 40),
    st.binary(max_size=8) | st.text("[]{}:,-#&*!|>'\"%@` \n\t?<0123456789.eE+_~", max_size=12).map(str.encode),
)
def test_any_change_of_the_bytes_is_taken_or_refused_in_a_sentence(tmp_path, start, length, new):
    shipped = SHIPPED.encode()
    path = write(tmp_path / "params.yaml", shipped[:start] + new + shipped[start + length :])
    try:
        load_params(path)
    except InputError as error:
        is_sentence(error, path)
