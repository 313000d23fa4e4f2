"""What SECURITY.md promises: nothing that is read is run, and nothing leaves its folder."""

import ast
import html.parser
import json
import re
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
from made_run import made_run
from synthetic import flat, make_grid

import probekit as pk
from probekit.extraction.preflight import Preflight
from probekit.extraction.responses import TokenView
from probekit.extraction.store import mend
from probekit.interpretation.live import LiveAnswer
from probekit.pipeline.notebooks import default_run_dir
from probekit.pipeline.parameters import read_parameters
from probekit.run.directory import Run

REPOSITORY = Path(__file__).resolve().parents[1]
MODULES = sorted((REPOSITORY / "probekit").rglob("*.py"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
SCRIPTS = sorted((REPOSITORY / "data").rglob("*.py"))

# Nothing is unpickled, no text becomes code, no shell is asked

_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "joblib.load"}
_CALLS |= {"joblib.dump", "torch.save", "yaml.load", "yaml.load_all", "yaml.full_load"}
_CALLS |= {"yaml.unsafe_load", "pd.eval", "pandas.eval", "torch.hub.load", "torch.jit.load"}
_METHODS = {"read_pickle", "to_pickle", "unsafe_load", "getoutput", "getstatusoutput"}
_FROM = {"joblib": {"load", "dump"}, "torch": {"load", "save"}, "yaml": {"load", "unsafe_load"}}
_FROM |= {"os": {"system", "popen"}, "builtins": {"eval", "exec"}}
# Of these the safe value must be given, or nothing else than it may be.
_MUST = {"torch.load": {"weights_only": "True"}}
_ONLY = {"allow_pickle": "False", "shell": "False", "use_safetensors": "True"}
_ONLY |= {"weights_only": "True", "enable_unsafe_deserialization": "False"}


def dangers(source):
    """What in this source reads pickles, turns text into code, or starts a shell."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if _is_dangerous(node)]


def _is_dangerous(node):
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] in _MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        module = (node.module or "").partition(".")[0]
        return module in _MODULES or bool({a.name for a in node.names} & _FROM.get(module, set()))
    if isinstance(node, ast.Call):
        called, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        given = {name: ast.unparse(value) for name, value in given.items()}
        method = called.rpartition(".")[2]
        return (
            called in _CALLS
            or method in _METHODS
            # DataFrame.query and .eval run text; torch's module.eval() takes nothing.
            or (isinstance(node.func, ast.Attribute) and method in {"eval", "query"} and node.args)
            or any(given.get(name) != value for name, value in _MUST.get(called, {}).items())
            or any(given.get(name, value) != value for name, value in _ONLY.items())
            or given.get("trust_remote_code") == "True"
            or (
                "Model" in called and method == "from_pretrained" and "use_safetensors" not in given
            )
        )
    if isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        defaults = [*zip(positional[len(positional) - len(node.defaults) :], node.defaults)]  # noqa: B905
        defaults += [
            pair for pair in zip(node.kwonlyargs, node.kw_defaults, strict=True) if pair[1]
        ]
        return any(a.arg == "trust_remote_code" and ast.unparse(d) != "False" for a, d in defaults)
    return False


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.name)
def test_no_module_runs_what_it_reads(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_notebook_runs_what_it_reads(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert not re.search(r"(?m)^\s*[!%]", source), "a shell command or magic"
            assert dangers(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import dumps",
        "from joblib import load",
        "joblib.dump(model, path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(x, path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "pd.read_pickle(path)",
        "eval(text)",
        "exec(text)",
        "table.query(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "AutoModelForCausalLM.from_pretrained(name)",
        "AutoModelForCausalLM.from_pretrained(name, use_safetensors=False)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "def load(name, trust_remote_code=True): pass",
        "def load(name, *, trust_remote_code=None): pass",
    ],
)
def test_what_is_dangerous_is_seen(source):
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "json.load(file)",
        "np.load(path)",
        "ast.literal_eval(text)",
        "torch.load(path, weights_only=True)",
        "subprocess.run(['git', 'status'])",
        "AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **options)",
        "def load(name, trust_remote_code=False): pass",
    ],
)
def test_what_is_safe_is_let_be(source):
    assert dangers(source) == []


def test_weights_in_a_format_that_can_run_code_are_not_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors file.* other formats"):
        pk.load_model(tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [("['made']", "limit must be one value"), ("made", "line 1 is not YAML: could not")],
)
def test_yaml_that_would_run_code_is_refused(value, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(f"limit: !!python/object/apply:os.mkdir {value}\n")
    with pytest.raises(ValueError, match=said):
        read_parameters(file=path)
    assert not (tmp_path / "made").exists()


# Names stay in their folder


@pytest.mark.parametrize(
    "questions",
    ["..", "../..", "a/..", "...csv", "....csv", "..csv", ".hidden.csv", "/", "", "a/../../b.csv",
     "hub:..:..:..", "hub:a/b:c:../../d", "x\n../y.csv", "a b.csv", "è.csv", "C:\\x\\..\\y.csv"],
)  # fmt: skip
def test_a_run_named_after_its_questions_lies_in_the_folder_of_runs(questions):
    folder = default_run_dir(questions)
    assert folder.parent == Path("data", "runs")
    assert re.fullmatch(r"[\w-][\w.-]*", folder.name)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..", "", "a\0b"])
def test_a_file_of_a_run_lies_in_the_run(tmp_path, name):
    run = Run(tmp_path / "runs" / "r")
    with pytest.raises(ValueError, match="name of a file in the run directory"):
        run.write_text(name, "text")
    with pytest.raises(ValueError, match="name of a file in the run directory"):
        run.save_grids({}, name)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("output", ["../other/keep.txt", "/keep.txt", "..", "a/../../keep.txt"])
def test_a_manifest_from_elsewhere_reaches_no_other_file(tmp_path, output):
    """A run may come from somebody else; extracting into it takes away what is damaged."""
    from probekit.extraction.store import mend
    from probekit.run.manifest import sealed

    run = Run(tmp_path / "runs" / "r")
    keep = tmp_path / "runs" / "other" / "keep.txt"
    keep.parent.mkdir(parents=True)
    keep.write_text("mine")
    run.begin("extract", {}).finish([])
    path = run.path / "manifests" / "extract.json"
    manifest = json.loads(path.read_text())
    manifest["outputs"] = {output: {"bytes": 1, "sha256": "0" * 64}}
    path.write_text(json.dumps(sealed(manifest)))
    with pytest.raises(ValueError, match="is not a file of the run"):
        run.manifest("extract")
    mend(run)
    assert keep.read_text() == "mine"


def test_a_manifest_reaches_no_file_through_a_link(tmp_path):
    run = Run(tmp_path / "r")
    keep = tmp_path / "other" / "keep.txt"
    keep.parent.mkdir()
    keep.write_text("mine")
    stage = run.begin("extract", {})
    output = run.write_text("activations.zarr/keep.txt", "theirs")
    stage.finish([output])
    output.unlink()
    output.parent.rmdir()
    output.parent.symlink_to(keep.parent)
    with pytest.raises(ValueError, match="symbolic link"):
        mend(run)
    assert keep.read_text() == "mine"


# Text stays text wherever it becomes HTML or Markdown

HOSTILE = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script>&lt;b&gt;"


class _Tags(html.parser.HTMLParser):
    """The elements that a page has, with their attributes, as a browser would find them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def parsed(page):
    parser = _Tags()
    parser.feed(page)
    parser.close()
    return parser


def harmless(page):
    """Whether no element of the page came from the hostile text."""
    tags = parsed(page).tags
    return not any(tag == "img" or any(a.startswith("on") for a in attrs) for tag, attrs in tags)


def _grid():
    true = flat(0.7, layers=3)
    return make_grid(true, n=120).assign_attrs(model=HOSTILE, site=HOSTILE, split="random")


def _token_view():
    row = {"question": HOSTILE, "verdict": "right", "exact_answer": HOSTILE, "accepted": HOSTILE}
    return TokenView([row | {"tokens": [(HOSTILE, [HOSTILE])]}])._repr_html_()


def _explorer(tmp_path):
    return pk.explore(made_run(tmp_path / HOSTILE.replace("/", ""), n=40, wrap=HOSTILE + "{}"))


def _chart_page(tmp_path):
    chart = pk.heatmap(_grid(), title=HOSTILE)
    (page,) = pk.save_chart(chart, tmp_path / "page.html")
    return page.read_text(encoding="utf-8")


def _chart_picture(tmp_path):
    chart = alt.Chart(pd.DataFrame({"x": [HOSTILE]})).mark_text().encode(text="x", x="x")
    (picture,) = pk.save_chart(chart.properties(title=HOSTILE, description=HOSTILE), "x.svg")
    return picture.read_text(encoding="utf-8")


def test_responses_shown_token_by_token():
    page = _token_view()
    assert harmless(page)
    assert {tag for tag, _ in parsed(page).tags} <= {"div", "span", "b"}
    assert parsed(page).text.count(HOSTILE) == 5  # heading thrice, the token, its name


def test_a_preflight(tmp_path):
    row = dict.fromkeys(("question", "response", "exact_answer", "accepted", "verdict"), HOSTILE)
    page = Preflight([HOSTILE], pd.DataFrame([row]), [HOSTILE])._repr_html_()
    assert harmless(page)
    assert parsed(page).text.count(HOSTILE) == 7


def test_the_explorer(tmp_path):
    explorer = _explorer(tmp_path)
    view = explorer.widget and explorer._widgets
    view.which.value = "all"
    view.token.value = "-8"
    parts = [view.message, view.numbers, view.examples, view.about, view.headline]
    for part in parts:
        assert harmless(part.value)
        assert "script" not in [tag for tag, _ in parsed(part.value).tags]
    for part in (view.examples, view.about):
        assert HOSTILE in parsed(part.value).text
    # A menu's name could be HTML, its entries never are.
    assert not any(box.description_allow_html for box in (view.run, view.split, view.token))


def test_the_web_page_of_a_chart(tmp_path):
    page = _chart_page(tmp_path)
    assert harmless(page)
    # The bundle of Vega, and the one call of it.
    assert [tag for tag, _ in parsed(page).tags].count("script") == 2
    assert f"<title>{html_escaped(HOSTILE)}</title>" in page
    assert "Content-Security-Policy" in page
    assert re.search(r"default-src 'none'", page)


def test_the_picture_of_a_chart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = _chart_picture(tmp_path)
    assert harmless(picture)
    assert "script" not in [tag for tag, _ in parsed(picture).tags]


def test_the_picture_in_a_notebook():
    shown = pk.static(pk.heatmap(_grid(), title=HOSTILE).properties(description=HOSTILE))
    assert harmless(shown._repr_mimebundle_()[0].get("text/html", ""))


def html_escaped(text):
    import html

    return html.escape(text)


@pytest.mark.parametrize("make", [pk.describe, lambda grid: pk.findings(grid).markdown])
def test_a_description(make):
    grid = _grid()
    names = [HOSTILE, *grid["token"].to_numpy()[1:]]
    text = make(grid.assign_coords(token=names))
    assert harmless(text)
    assert "<" not in text.replace("p <", "")


def test_a_live_answer():
    row = {
        "question": HOSTILE,
        "verdict": "",
        "exact_answer": HOSTILE,
        "tokens": [("⏎", ["last_q"]), (HOSTILE, ["first_answer"])],
        "p_error": {"last_q": 0.2, "first_answer": 0.9},
        "chosen": None,
    }
    answer = LiveAnswer(row, 0.5, HOSTILE)
    assert harmless(answer._repr_html_())
    for colour in (False, True):
        shown = re.sub(r"\x1b\[(?:38;5;16;48;5;\d+|0)m", "", answer.text(colour))
        assert "\x1b" not in shown


#: Modules that write markup, each with the tests of what it makes.
TESTED = {"files", "explorer", "live", "widgets", "responses", "report", "preflight"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_module_that_writes_markup_is_tested(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    markup = re.compile(r"</?(?:div|span|table|tr|td|p|b|i|a|img|html|script|style|h\d|li|pre)\b")
    if any(isinstance(text, str) and markup.search(text) for text in texts):
        assert path.stem in TESTED, "test here that it escapes what it shows, and name it"


def test_every_promise_has_a_test():
    """What SECURITY.md says, it says with the test that would fail if it were not so."""
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    rows = [row for row in re.findall(r"^\| (.+) \| (.+) \|$", text, re.M) if "---" not in row]
    promises = [row for row in rows if row != ("promise", "test")]
    assert len(promises) > 30
    for promise, test in promises:
        named = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", test)
        assert named, f"{promise} names no test, but {test}"
        tree = ast.parse((REPOSITORY / "tests" / named[1]).read_text(encoding="utf-8"))
        assert named[2] in [n.name for n in tree.body if isinstance(n, ast.FunctionDef)], promise
    for word in ("loopback", "Dask", "advisor"):
        assert word in text
