"""Contrasts: what is read, what is refused, and that nothing is ever run."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkglm.design import ContrastWeights, named_contrasts, parse_contrast
from chunkglm.errors import ContrastError

NAMES = ("face", "house", "cat", "constant")


def weights(definition, names=NAMES, **options):
    return parse_contrast(definition, names, **options).weights.tolist()


def refused(definition, names=NAMES, **options):
    """Return the message, which must be one line."""
    with pytest.raises(ContrastError) as caught:
        parse_contrast(definition, names, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2500
    return message


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("face", [1, 0, 0, 0]),
        ("  face ", [1, 0, 0, 0]),
        ("face - house", [1, -1, 0, 0]),
        ("face-house", [1, -1, 0, 0]),
        ("(face + house) / 2 - cat", [0.5, 0.5, -1, 0]),
        ("2*face - 3*house", [2, -3, 0, 0]),
        ("face*2 - house/4", [2, -0.25, 0, 0]),
        ("1.5e-1*face + .5*cat - 2.*house", [0.15, -2, 0.5, 0]),
        ("-(face - -house)", [-1, -1, 0, 0]),
        ("--+-face", [-1, 0, 0, 0]),
        ("6/3/2*face", [1, 0, 0, 0]),
        ("2 - 2 + face", [1, 0, 0, 0]),
        ("face - 2*(house - (cat + 1)) - 2", [1, -2, 2, 0]),
        ("face + face", [2, 0, 0, 0]),
        ("face\n+\thouse", [1, 1, 0, 0]),
        ("`face` - `house`*2", [1, -2, 0, 0]),
        ([1, -1, 0, 0], [1, -1, 0, 0]),
        ((True, False, False, False), [1, 0, 0, 0]),
        (np.array([0.5, 0, -0.5, 0], dtype=np.float32), [0.5, 0, -0.5, 0]),
        (np.array([True, False, True, False]), [1, 0, 1, 0]),
        ({"cat": 1, "face": np.float64(-0.5)}, [-0.5, 0, 1, 0]),
        (["face - cat"], [1, 0, -1, 0]),
        ([[1, -1, 0, 0]], [1, -1, 0, 0]),
    ],
)
def test_parse_contrast__one_row(definition, expected):
    contrast = parse_contrast(definition, NAMES)
    assert contrast.weights.tolist() == [expected]
    assert contrast.weights.dtype == np.float64
    assert contrast.stat_type == "t"


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (["face - cat", "house - cat"], [[1, 0, -1, 0], [0, 1, -1, 0]]),
        (np.array(["face", "2*house"]), [[1, 0, 0, 0], [0, 2, 0, 0]]),
        (np.eye(4)[:3], np.eye(4)[:3].tolist()),
        (((1, -1, 0, 0), (0, 1, -1, 0)), [[1, -1, 0, 0], [0, 1, -1, 0]]),
        # A small row is not a dependent one.
        ([[1, 0, 0, 0], [0, 1e-30, 0, 0]], [[1, 0, 0, 0], [0, 1e-30, 0, 0]]),
    ],
)
def test_parse_contrast__several_rows_are_f(definition, expected):
    contrast = parse_contrast(definition, NAMES)
    assert contrast.weights.tolist() == expected
    assert contrast.stat_type == "F"
    assert "t statistic has one" in refused(definition, stat_type="t")


def test_parse_contrast__stat_type_of_one_row_can_be_f():
    contrast = parse_contrast("face", NAMES, stat_type="F")
    assert contrast.weights.tolist() == [[1, 0, 0, 0]]
    assert contrast.stat_type == "F"
    assert "'t' or 'F', but got 'z'" in refused("face", stat_type="z")


@pytest.mark.parametrize(
    ("expression", "names", "expected"),
    [
        ("2*a-b", ("a", "b", "a-b"), [0, 0, 2]),
        ("2*`a` - `b`", ("a", "b", "a-b"), [2, -1, 0]),
        ("a-b", ("a", "b", "a-b"), [0, 0, 1]),
        ("a - b", ("a", "b", "a-b"), [1, -1, 0]),
        ("face-1 - house", ("face-1", "house", "face"), [1, -1, 0]),
        ("face-1.5*house", ("face-1", "house", "face"), [0, -1.5, 1]),
        ("faces - face", ("face", "faces"), [-1, 1]),
        ("2back - 0back", ("0back", "2back"), [-1, 1]),
        ("2*2back", ("0back", "2back"), [0, 2]),
        ("1 - 2", ("1", "2"), [1, -1]),
        ("2.0*1", ("1", "2"), [2, 0]),
        ("0.5*x", ("0", "x"), [0, 0.5]),
        ("happy face - C(trial)[T.b]", ("happy face", "C(trial)[T.b]", "happy"), [1, -1, 0]),
        ("3*(face × house)", ("(face × house)", "face"), [3, 0]),
        ("2*gesicht_ä - größe", ("gesicht_ä", "größe"), [2, -1]),
        ("2*顔 - 家", ("顔", "家"), [2, -1]),
        ("2*tick`s", ("tick`s", "s"), [2, 0]),
        ("-x + 2*-", ("x", "-"), [-1, 2]),
        ("lambda - __import__", ("lambda", "__import__"), [1, -1]),
        ("a\nb", ("a\nb", "a"), [1, 0]),
        ("2*1e3", ("1e3", "1"), [2, 0]),
        ("x", ("x", "y"), [1, 0]),
    ],
)
def test_parse_contrast__longest_name_wins(expression, names, expected):
    assert weights(expression, names) == [expected]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", ["is empty"]),
        ("   ", ["is empty"]),
        ("face + 1", ["has the constant 1"]),
        ("1", ["names no column"]),
        ("2*3 - 6", ["names no column"]),
        ("face - face", ["is zero", "tests nothing"]),
        ("0*face", ["is zero"]),
        ("face*house", ["multiplies columns by columns", "character 5"]),
        ("2/face", ["divides by columns", "character 2"]),
        ("(face - face + 2)*house", ["multiplies columns by columns"]),
        ("face/0", ["divides by zero", "character 5"]),
        ("face/(1-1)", ["divides by zero"]),
        ("face**2", ["power", "character 5"]),
        ("9**9**9", ["power", "character 2"]),
        ("face ^ 2", ["'^'", "character 6"]),
        ("1e999*face", ["beyond 1.8e308", "'1e999'"]),
        ("1e308*10*face", ["overflows"]),
        ("face*1e308 + face*1e308", ["overflows"]),
        ("face*1e308*10 - face*1e308*10", ["overflows"]),
        ("face/1e-320", ["overflows"]),
        ("face > 0", ["'>'", "character 6"]),
        ("face == house", ["'=='"]),
        ("face.mean()", ["'.mean'", "character 5"]),
        ("face house", ["'house'", "character 6"]),
        ("2face", ["no column '2face'", "did you mean 'face'?"]),
        ("2(face)", ["'('", "character 2"]),
        ("face -", ["ends where a column or a number should follow"]),
        ("(face", ["never closed", "character 1"]),
        ("face)", ["')'", "character 5"]),
        ("()", ["')'", "character 2"]),
        ("*face", ["'*'", "character 1"]),
        ("fase - house", ["no column 'fase'", "did you mean 'face'?", "character 1"]),
        ("Face - house", ["no column 'Face'", "did you mean 'face'?"]),
        ("dog", ["no column 'dog'", "'face', 'house', 'cat', 'constant'"]),
        ("`dog` - face", ["no column 'dog'"]),
        ("`face - house", ["never closed"]),
        ("1_000*face", ["no column '1_000'"]),
        ("0x10*face", ["no column '0x10'"]),
        ("1j*face", ["no column '1j'"]),
        ("inf*face", ["no column 'inf'"]),
        ("face\x00", ["character 5"]),
        ("(" * 101 + "face" + ")" * 101, ["more than 100 nested"]),
        ("face" + "+face" * 3000, ["15004 characters", "at most 10000"]),
    ],
)
def test_parse_contrast__refuses_expressions(expression, words):
    message = refused(expression, source="design.csv")
    assert [word for word in words if word not in message] == []


def test_parse_contrast__reads_100_nested_parentheses():
    assert weights("(" * 100 + "face" + ")" * 100) == [[1, 0, 0, 0]]
    assert weights("-" * 9000 + "face") == [[1, 0, 0, 0]]


def test_parse_contrast__long_expressions_of_many_columns_are_quick():
    names = tuple(f"r{j}" for j in range(1000))
    start = time.perf_counter()
    found = parse_contrast("+".join(names[:1000])[:4000].rsplit("+", 1)[0], names).weights
    assert found.sum() > 800
    # Measured 0.1 s; the bound leaves room for a busy machine and none for the square.
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ([1, -1], ["2 weights", "the design has 4 columns", "'face', 'house'"]),
        ([1, -1, 0, 0, 0], ["5 weights", "has 4 columns"]),
        ([[1, -1]], ["2 weights", "has 4 columns"]),
        ([0, 0, 0, 0], ["is zero"]),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], ["zero in row 1"]),
        ([1, np.nan, 0, 0], ["weight nan for 'house'"]),
        ([1, 0, 0, -np.inf], ["weight -inf for 'constant'"]),
        ([], ["is empty"]),
        ([[]], ["is empty"]),
        (np.zeros((0, 4)), ["is empty"]),
        ([1, 1j, 0, 0], ["real numbers", "complex128"]),
        ([1, None, 0, 0], ["real numbers"]),
        (["face", 1], ["real numbers"]),
        (["face", ""], ["is empty"]),
        ([[1, 0, 0, 0], [1, 0]], ["is ragged"]),
        (np.float64(1), ["but got float64"]),
        (np.array(1.0), ["shape ()"]),
        (np.ones((1, 1, 4)), ["shape (1, 1, 4)"]),
        (np.ma.array([1, 2, 3, 4], mask=[1, 0, 0, 0]), ["real numbers"]),
        ([[1, -1, 0, 0], [0, 1, -1, 0], [1, 0, -1, 0]], ["3 rows but rank 2"]),
        (["face", "2*face"], ["2 rows but rank 1"]),
        (np.eye(4)[[0, 1, 2, 3, 0]], ["5 rows but rank 4"]),
        ({}, ["is zero"]),
        ({"dog": 1}, ["no column 'dog'"]),
        ({"fase": 1}, ["did you mean 'face'?"]),
        ({1: 1}, ["no column '1'"]),
        ({"face": "1"}, ["weight of 'face'", "'1'"]),
        ({"face": 1j}, ["weight of 'face'"]),
        ({"face": np.nan}, ["weight nan"]),
        ({"face": 10**400}, ["weight inf"]),
        (None, ["but got NoneType"]),
        (7, ["but got int"]),
        (b"face", ["but got bytes"]),
        ({"face", "house"}, ["but got set"]),
    ],
)
def test_parse_contrast__refuses_weights(definition, words):
    message = refused(definition)
    assert [word for word in words if word not in message] == []


def test_parse_contrast__refuses_names_it_cannot_tell_apart():
    assert "'a', 'a'" in refused("a", ("a", "a"))
    assert "must have columns" in refused("a", ())


def test_parse_contrast__lists_twenty_columns_and_counts_the_rest():
    message = refused("dog", tuple(f"column_{j}" for j in range(33)))
    assert "'column_19' and 13 more" in message
    assert "column_20" not in message


def test_parse_contrast__label_is_what_the_user_wrote():
    label = [
        parse_contrast(definition, NAMES).label
        for definition in (
            " face - house ",
            np.array([1, -0.5, 0, 0]),
            {"face": 1, "cat": -1.0},
            ["face", "cat"],
        )
    ]
    assert label == ["face - house", "[1, -0.5, 0, 0]", "face: 1, cat: -1", "face, cat"]


def test_contrast_weights__are_a_read_only_copy():
    given_weights = np.array([1.0, -1.0])
    contrast = ContrastWeights(given_weights, "t", "a - b")
    given_weights[0] = 5
    assert contrast.weights.tolist() == [[1, -1]]
    with pytest.raises(ValueError, match="read-only"):
        contrast.weights[0, 0] = 2


ATTACKS = [
    "__import__('os').system('touch {marker}')",
    "__import__('pathlib').Path('{marker}').touch()",
    "open('{marker}', 'w')",
    "face + open('{marker}', 'w').close()",
    "exec(\"open('{marker}', 'w')\")",
    "eval(compile(\"open('{marker}','w')\", '', 'exec'))",
    "(lambda: open('{marker}', 'w'))()",
    "[open('{marker}', 'w') for _ in (1,)]",
    "f\"{{open('{marker}', 'w')}}\"",
    "face if open('{marker}', 'w') else house",
    "face.to_csv('{marker}')",
    "@pd.DataFrame().to_csv('{marker}')",
    "@pd.io.common.os.system('touch {marker}')",
    "().__class__.__base__.__subclasses__()",
    "face.__class__.__init__.__globals__['os'].system('touch {marker}')",
    "face := open('{marker}', 'w')",
    "face; import os; os.system('touch {marker}')",
    "face\nimport os\nos.system('touch {marker}')",
    "`open('{marker}', 'w')`",
    "$(touch {marker})",
    "!touch {marker}",
    "cos\nsystem\n(S'touch {marker}'\ntR.",
    "{{face: open('{marker}', 'w')}}",
    "%(face)s",
    "face or open('{marker}', 'w')",
    "~face",
    "face @ house",
    "face // 2",
    "face % 2",
    "face[0]",
    "face if 1 else house",
    "not face",
    "*face, house",
    "face.__reduce__()",
    "{{'face': 1}}['face']",
    "face\rimport os",
    "\u202eface",
    "face\x00; touch {marker}",
    "getattr(face, 'to_pickle')('{marker}')",
    "(face).__class__('{marker}')",
    "`face`.to_csv(`{marker}`)",
    "@__builtins__",
    "${{jndi:ldap://127.0.0.1/a}}",
    "face -- ; DROP TABLE design",
    "<script>face</script>",
    "__import__('os').system('touch {marker}') * 0 + face",
    "os.system('touch {marker}') or face",
    "print(face)",
    "yield face",
    "await face",
    "import os",
]
# What takes forever where it is computed, and no time where it is only read.
BOMBS = [
    "9**9**9",
    "9 ** 9 ** 9",
    "face * 9**9**9",
    "9^9^9",
    "pow(9, 9**9)",
    "(" * 5000 + "9" + ")**9" * 5000,
    "face*" + "9" * 9000,
    "1e" + "9" * 9000 + "*face",
    "face" + "*1e300" * 1500,
    "'a' * 10**10",
    "range(10**12)",
    "10**1000000000",
    "-" * 9999,
    "`" * 9999,
    "a" * 9999,
    "face " * 1900,
    "face/" * 1900 + "0",
]
# Seconds; milliseconds are seen, and a busy machine takes a few times as long.
AT_ONCE = 1.0


@pytest.mark.parametrize("attack", ATTACKS)
def test_parse_contrast__never_runs_text(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(attack.format(marker="marker"))
    assert message.startswith("contrast ")
    assert list(tmp_path.iterdir()) == []
    for wrapped in ([attack.format(marker="marker")], {attack.format(marker="marker"): 1}):
        refused(wrapped)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bomb", BOMBS)
def test_parse_contrast__refuses_what_is_meant_to_take_forever_at_once(bomb):
    start = time.process_time()
    for definition in (bomb, [bomb], [bomb, "face"]):
        assert refused(definition).startswith("contrast ")
    assert time.process_time() - start < AT_ONCE


@pytest.mark.parametrize("attack", [*ATTACKS, *BOMBS])
def test_named_contrasts__never_run_text(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attack = attack.replace("{marker}", "marker")
    # As a name it is a name, and nothing else.
    assert named_contrasts({attack: "face"}) == {attack.strip(): "face"}
    for definition in named_contrasts({"one": attack, "two": {"face": attack}}).values():
        with pytest.raises(ContrastError):
            parse_contrast(definition, NAMES)
    assert list(tmp_path.iterdir()) == []


def test_attacks__would_run_in_nilearn(tmp_path, monkeypatch):
    """Control: the corpus is dangerous where expressions are evaluated."""
    from nilearn.glm.contrasts import expression_to_contrast_vector

    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for attack in ("face.to_csv('{marker}')",):
            with pytest.raises((ValueError, AttributeError)):
                expression_to_contrast_vector(attack.format(marker="marker"), list(NAMES))
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]


@pytest.mark.parametrize(
    "expression",
    [
        "face",
        "face - house",
        "face + house - 2*cat",
        "(face + house)/2 - cat",
        "face/3 - 0.1*house + 0.2*house",
        "-face",
        "0.5*(face + house) - 0.5*(cat + constant)",
        "2*(face - (house - cat))/3",
        "1e-3*face - 2.5E2*house",
        "face * 2 * 3 / 7",
        "+face - +house",
    ],
)
def test_parse_contrast__equals_nilearn(expression):
    from nilearn.glm.contrasts import expression_to_contrast_vector

    expected = expression_to_contrast_vector(expression, list(NAMES))
    assert weights(expression) == [expected.tolist()]


# Random expressions, built together with the exact value they stand for.

SMALL = st.integers(1, 9)


def column(j):
    return NAMES[j], np.eye(4)[j]


def combine(children):
    """Sums, differences, scalings and parentheses of linear forms, as (text, weights)."""
    blank = st.sampled_from(["", " ", "  "])
    return st.one_of(
        st.builds(lambda a, b, s: (f"{a[0]}{s}+{s}{b[0]}", a[1] + b[1]), children, children, blank),
        st.builds(lambda a, b: (f"{a[0]} - ({b[0]})", a[1] - b[1]), children, children),
        st.builds(lambda n, a: (f"{n}*({a[0]})", n * a[1]), SMALL, children),
        st.builds(lambda n, a: (f"({a[0]}) / {n}", a[1] / n), SMALL, children),
        st.builds(lambda a: (f"-({a[0]})", -a[1]), children),
        st.builds(
            lambda n, a: (f"({n}/4 - {n}e-1)*({a[0]})", (n / 4 - n * 0.1) * a[1]), SMALL, children
        ),
    )


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.integers(0, 3).map(column), combine, max_leaves=12))
def test_parse_contrast__reads_back_random_expressions(built):
    text, expected = built
    assume(np.abs(expected).max() > 1e-9)
    # The text and the value round alike but for 4.*0.1 against 4e-1: 1e-12 of the largest.
    np.testing.assert_allclose(
        weights(text)[0], expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max())
    )


ANY_NAME = st.text(min_size=1, max_size=8).filter(lambda name: "`" not in name)
HARD_NAME = st.text("ab1.-+*/()[ e_é'\"", min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY_NAME | HARD_NAME, min_size=3, max_size=6, unique=True))
def test_parse_contrast__any_name_can_be_quoted(names):
    # No bare number or parenthesis here: a column may be called "2", or "(".
    expression = f"`{names[0]}`+`{names[0]}` -`{names[1]}` - `{names[2]}`"
    expected = [2, -1, -1] + [0] * (len(names) - 3)
    assert weights(expression, names) == [expected]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5, unique=True))
def test_parse_contrast__a_whole_name_is_that_column(names):
    for j, name in enumerate(names):
        assert weights(name, names) == [np.eye(len(names))[j].tolist()]


@settings(max_examples=300, deadline=None)
@given(st.text("ab12.-+*/()` e_>", max_size=30) | st.text(max_size=20))
def test_parse_contrast__any_text_is_read_or_refused(text):
    names = ("a", "b", "a-b", "1", "ab")
    try:
        found = parse_contrast(text, names).weights
    except ContrastError:
        refused(text, names)
    else:
        assert np.isfinite(found).all()
        assert found.any()


def test_parse_contrast__says_why_columns_are_numbered():
    assert "no header line" in refused("face", ("regressor_0", "regressor_1"))
    assert "no header line" not in refused("facet")
