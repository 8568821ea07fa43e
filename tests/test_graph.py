"""dvc.yaml tells the truth about the code, and imports point one way. Run: python -m pytest tests/test_graph.py

The source is read by `ast` and not run. `problems(root)` finds what is wrong in any tree, so the second half of
this file plants one fault of each kind in a copy and sees that it is found.
"""

import ast
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline import imports as code_imports

ROOT = Path(__file__).parents[1]
CODE = ("pipeline", "stages", "tests", "benchmarks")
FLOORS = (
    {"params", "seeds", "processes", "ranks", "imports", "errors", "csvs", "weights"},
    {"samples", "devices", "checkpoints", "pieces", "trainer"},
    {"data", "training", "averages"},
    {"classifier", "generators", "selection", "evaluation"},
    {"reporting"},
)
SAME_FLOOR = {
    ("training", "data"),
    ("training", "averages"),
}  # how rows become batches is part of how networks are trained
SETTINGS = "pipeline/params/__init__.py"
DECIDING = {
    f"compute.{key}" for key in ("accelerator", "precision", "threads")
}  # processes come to the same bytes, and so do
# ranks, but where a network is fitted: a run that goes on with fewer of them repeats nothing
CODE_READERS = ("plan", "repeat")  # the one hashes all code for the others, the other runs all of it again
TEST = "data/real/test"
HEAVY = ("torch", "lightning")
LIGHT = ("prepare", "report")
LONGEST_FUNCTION, LONGEST_FILE = 50, 300
RUNNERS = {  # modules that run what they read
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "subprocess", "runpy", "pty",
}  # fmt: skip
STARTER = "stages/repeat.py"  # the one file that starts a program: dvc, with no word of the user's in its command
RUNNING = {  # functions that do, whoever owns them
    "system", "popen", "load_from_checkpoint", "read_pickle", "read_hdf", "Unpickler", "run_path", "run_module",
    "__import__",
}  # fmt: skip
UNPICKLERS = {"torch", "lightning", "pytorch_lightning", "yaml", "pandas"}  # their `load` unpickles or builds objects
LOADERS = {"numpy.load", "numpy.lib.npyio.load"}  # safe with allow_pickle=False


# ---- what a tree holds ------------------------------------------------------------------------------------------


@cache
def parse(source):
    return ast.parse(source)


@cache
def read(root, file):
    """The text of a file, None if there is none; kept while one tree is looked at."""
    return (root / file).read_text() if (root / file).is_file() else None


def tree(root, file):
    return parse(read(root, file))


def code(root, *folders):
    return sorted(str(f.relative_to(root)) for d in folders for f in (root / d).rglob("*.py"))


def named(node):
    """Dotted names that one node may import. The text "pipeline.a.b" counts: processes preload modules by name."""
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports are not used in this project"
        return [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"pipeline(\.\w+)+", node.value):
        return [node.value]
    return []


def at_start(node):
    """The nodes that run when a module is imported: those outside of functions and of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_start(child)


@cache
def names(source, start):
    """Dotted names that a file may import, anywhere in it or only at its start."""
    return {n for node in (at_start if start else ast.walk)(parse(source)) for n in named(node)}


def files(root, dotted):
    """The files of the project behind dotted names, the `__init__` of every package on the way included."""
    return {f.as_posix() for name in dotted for f in code_imports.files(name, root) if f.parts[0] in CODE[:2]}


def modules(path):
    return f"{path}.py", f"{path}/__init__.py"


def imports(root, file, start=False):
    return files(root, names(read(root, file), start)) - {file}


def reached(root, begin, start=False):
    """All that these files import, themselves included, registries that import by name left aside."""
    seen, todo = set(), list(begin)
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imports(root, file, start)
    return seen


def outer(root, file, start=False):
    """First parts of all names that a file imports: `torch` of `import torch.nn`."""
    return {name.split(".")[0] for name in names(read(root, file), start)}


# ---- what the graph says ----------------------------------------------------------------------------------------


def stages(root):
    """The stages by name, a foreach stage being its `do`."""
    found = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in found.items()}


def script(stage):
    found = re.match(r"python -m stages (\w+)", stage["cmd"])
    return f"stages/{found[1]}.py" if found else None


def outs(stage):
    """Outputs of every kind as {path: its options}."""
    listed = [o for kind in ("outs", "metrics", "plots") for o in stage.get(kind, [])]
    return {k: v for o in listed for k, v in (o.items() if isinstance(o, dict) else [(o, {})])}


def within(path, folder, sep="/"):
    return path == folder or path.startswith(folder + sep)


def sections(root):
    return set(yaml.safe_load((root / "params.yaml").read_text()))


def declared(root, stage):
    """Declared params as dotted keys, cut where the graph fills a name in: `generators.${key}` is `generators`."""
    found = set()
    for entry in stage.get("params", []):
        found.add(re.sub(r"\.?\$\{.*", "", entry))
    return found


def run_by(root, file):
    """What a stage's `main` refers to, in its script, in other stages' and in the library, {(file, name)}."""
    seen, todo = set(), [(file, "main")]
    while todo:
        where, name = place = todo.pop()
        if place not in seen and name in defined(read(root, where)):
            seen.add(place)
            todo += [there for text in referred(read(root, where), name) for there in places(root, where, text)]
    return seen


@cache
def defined(source):
    return {n.name: n for n in parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


@cache
def referred(source, name):
    """Names and dotted names in a function or class: `write_bank`, `run.facts`."""
    nodes = ast.walk(defined(source)[name])
    return {ast.unparse(n) for n in nodes if isinstance(n, ast.Name) or is_dotted(n)}


def is_dotted(node):
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)


@cache
def borrowed(source):
    """What a file imports from the project, {name here: full dotted name}."""
    nodes = [n for n in ast.walk(parse(source)) if isinstance(n, ast.ImportFrom)]
    return {a.asname or a.name: f"{n.module}.{a.name}" for n in nodes for a in n.names}


def places(root, file, text):
    """Where a name used in a file may be defined, [(file, name there)]."""
    first, *rest = text.split(".")
    module, _, name = ".".join([borrowed(read(root, file)).get(first, ""), *rest]).rpartition(".")
    known = modules(module.replace(".", "/")) if module.startswith(("stages", "pipeline")) else ()
    return [(f, name) for f in known if read(root, f) is not None] + ([(file, first)] if not rest else [])


def reads(root, file):
    """`params.a.b` read by a stage, or by the library for it, as "a.b"; who opens params.yaml reads all of it."""
    known = properties(read(root, SETTINGS))
    asked = set().union(*(keys(read(root, where), name) for where, name in run_by(root, file)))
    found = set().union(*(known.get(key.split(".")[0], {key}) for key in asked))
    return found - {"*"} | (sections(root) if "*" in found else set())


@cache
def keys(source, name):
    """Keys of params that a function or class reads; "*" for the file itself."""
    node = defined(source)[name]
    found = chains(node, r"(?:\w+\.)*params")
    return found | {"*" for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value == "params.yaml"}


def chains(node, owner):
    """What is read of an owner, `a.b` for `owner.a.b`."""
    nodes = [n for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    inner = {n.value for n in nodes}
    found = [re.fullmatch(rf"{owner}\.(\w+(\.\w+)*)", ast.unparse(n)) for n in nodes if n not in inner]
    return {m[1].removesuffix(".model_copy") for m in found if m} - {"model_copy"}


@cache
def properties(source):
    """What params work out from others of their keys: `compared` -> {"profile", "arms", ...}."""
    methods = [n for n in defined(source)["Params"].body if isinstance(n, ast.FunctionDef)]
    own = {n.name: chains(n, "self") for n in methods if "property" in map(ast.unparse, n.decorator_list)}
    for _ in own:  # a property may be worked out from another
        own = {name: set().union(*(own.get(key.split(".")[0], {key}) for key in read)) for name, read in own.items()}
    return own


# ---- what must be true ------------------------------------------------------------------------------------------


def problems(root):
    read.cache_clear()
    yield from graph_problems(root)
    yield from import_problems(root)
    yield from code_problems(root)


def graph_problems(root):
    known = stages(root)
    for name, stage in known.items():
        if re.search(r"[;&|<>`\n]|\$\(", stage["cmd"]):
            yield f"{name}: its cmd is more than one command"
        file = script(stage)
        if file is None or read(root, file) is None:
            yield f"{name}: its cmd runs no script of stages/"
            continue
        yield from dependency_problems(root, name, stage, file)
        yield from param_problems(root, name, stage, file)
        if name not in ("prepare", "evaluate"):
            for path in {*stage["deps"], *stage["cmd"].split()[4:]}:
                if within(path, TEST) or within(TEST, path):
                    yield f"{name} is handed {path}, which holds the test split"
        if name != list(known)[-1]:
            for path, options in outs(stage).items():
                if not options.get("cache", True):
                    yield f"{name}: {path} is not cached, though it is no report"


def dependency_problems(root, name, stage, file):
    deps, key = stage["deps"], "/${key}" if "${key}" in stage["cmd"] else ""
    if name in CODE_READERS:
        yield from (f"{name} does not depend on {d}" for d in ("pipeline", "stages", "params.yaml") if d not in deps)
        return
    if (code := f"data/plan/{Path(file).stem}{key}.json") not in deps:
        yield f"{name} does not depend on {code}, which stands for the code that it runs"
    for dep in deps:
        if dep.startswith(("pipeline", "stages")):
            yield f"{name} lists {dep}, for which {code} stands"


def param_problems(root, name, stage, file):
    if "params.yaml" in stage["deps"]:
        return
    said, used = declared(root, stage), reads(root, file)
    if "compute" in used:
        used = (
            used - {"compute"}
            | DECIDING
            | ({"compute.devices", "compute.num_nodes"} if name == "fit_generator" else set())
        )
    for key in sorted(used):
        if not any(within(key, d, ".") for d in said):
            yield f"{name} reads params.{key}, which its params do not list"
    for key in sorted(said):
        if not any(within(key, u, ".") or within(u, key, ".") for u in used):
            yield f"{name} lists params {key}, which it does not read"


def room(file):
    return file.split("/")[1].removesuffix(".py")


def floor(room):
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), None)


def may_import(mine, theirs):
    if theirs in (mine, "__init__") or (mine, theirs) in SAME_FLOOR:
        return True
    return (floor(theirs) or 0) < (floor(mine) or 0)


def import_problems(root):
    for file in code(root, "pipeline"):
        mine = room(file)
        if mine != "__init__" and floor(mine) is None:
            yield f"{file}: the room {mine} is on no floor"
        for other in sorted(imports(root, file)):
            theirs = room(other)
            if other.startswith("stages/"):
                yield f"{file} imports {other}: the library does not know the stages"
            elif not may_import(mine, theirs):
                yield f"{file} imports {other}: a room imports only from the floors below it"
    for file in code(root, *CODE):
        if "torchvision" in outer(root, file):
            yield f"{file} imports torchvision, which is not installed"
    for name in LIGHT:
        for file in sorted(reached(root, [f"stages/{name}.py"], start=True)):
            for heavy in sorted(outer(root, file, start=True) & set(HEAVY)):
                yield f"{name} imports {heavy} at its start, by {file}"


def code_problems(root):
    for file in code(root, "pipeline", "stages"):
        for flaw in flaws(read(root, file), library=file.startswith("pipeline/")):
            if file != STARTER or not re.search(r"(imports|uses) subprocess(\.(run|Popen))?$", flaw):
                yield file + flaw


@cache
def flaws(source, library):
    """What is wrong with one file by itself, as texts to put behind its name."""
    found, lines = [], len(source.splitlines())
    if lines > LONGEST_FILE:
        found.append(f" has {lines} lines, more than {LONGEST_FILE}")
    for node in ast.walk(parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                found.append(f": {node.name} has {length} lines, more than {LONGEST_FUNCTION}")
        if library and isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            found.append(f":{node.lineno} prints")
        found += [f":{node.lineno} {what}" for what in unsafe(node, bound(source))]
        named_so = isinstance(node, (ast.Attribute, ast.ImportFrom))
        if library and named_so and re.match(r"sys\.argv$|from sys import .*\bargv", ast.unparse(node)):
            found.append(f":{node.lineno} reads the command line")
    return found


def unsafe(node, known):
    """Ways in which a file could make this code run something: unpickling, evaluating, a shell.

    `known` says what its imports are called there. A function is found wherever it is named, called or not.
    """
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        starred = isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)
        yield from (f"imports {n}" for n in named(node) if risky(n) or (n in LOADERS and not starred))
        if starred:
            yield f"imports {node.module}.*, which may be anything"
    full = spelt_out(node, known)
    if full and risky(full):
        yield f"uses {full}"
    if isinstance(node, ast.Call):
        full, keys = spelt_out(node.func, known), {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = node.func.attr if isinstance(node.func, ast.Attribute) else full
        if last == "eval" and (node.args or node.keywords or full == "eval"):  # network.eval() is something else
            yield f"uses {ast.unparse(node.func)}"
        if (full in LOADERS and "allow_pickle" not in keys) or keys.get("allow_pickle", "False") != "False":
            yield f"calls {full or ast.unparse(node.func)} without allow_pickle=False"
        if keys.get("weights_only", "True") != "True":
            yield f"calls {full or ast.unparse(node.func)} without weights_only=True"
        if last == "YAML" and keys.get("typ") != "'safe'":
            yield "reads YAML that may build objects"


@cache
def bound(source):
    """What the imports of a file are called in it, {name here: full dotted name}."""
    nodes = [n for n in ast.walk(parse(source)) if isinstance(n, ast.Import)]
    plain = {
        a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for n in nodes for a in n.names
    }
    return plain | borrowed(source)


def spelt_out(node, known):
    """`torch.load` for the name or attribute `t.load` after `import torch as t`; `?.load` of other values."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{spelt_out(node.value, known) or '?'}.{node.attr}"
    return None


def risky(full):
    """Whether a dotted name is, or lies in, something that runs what it reads."""
    parts = full.split(".")
    first, last = parts[0], parts[-1]
    if first in RUNNERS or last in RUNNING or full == "exec":
        return True
    if first in ("os", "posix", "nt"):
        return re.match(r"(exec|spawn|posix_spawn|popen|startfile)", last) is not None
    return first in UNPICKLERS and re.match(r"(unsafe_|full_)?load(_all|s)?$|hub$|package$", last) is not None


def test_the_tree_has_no_problems():
    assert list(problems(ROOT)) == []


# ---- the checker finds what it looks for ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean():
    return set(problems(ROOT))


@pytest.fixture
def copy(tmp_path):
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def plant(root, file, change):
    """Append text to a source file, or change one stage in the graph by a function."""
    if file.endswith(".py"):
        with (root / file).open("a") as f:
            f.write(f"\n\n{change}\n")
        return
    graph = yaml.safe_load((root / "dvc.yaml").read_text())
    stage = graph["stages"][file]
    change(stage.get("do", stage))
    (root / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))


def drop(kind, entry):
    return lambda stage: stage[kind].remove(entry)


def add(kind, entry):
    return lambda stage: stage[kind].append(entry)


def say(text):
    return lambda stage: stage.update(cmd=stage["cmd"] + text)


FAULTS = {
    "the hash of the code is missing": (
        "prepare",
        drop("deps", "data/plan/prepare.json"),
        "prepare does not depend on data/plan/prepare.json",
    ),
    "the hash of one block's code is missing": (
        "retrain",
        drop("deps", "data/plan/retrain/${key}.json"),
        r"retrain does not depend on data/plan/retrain/\$\{key\}.json",
    ),
    "code is listed beside its hash": ("prepare", add("deps", "pipeline/seeds.py"), "prepare lists pipeline/seeds.py"),
    "the plan does not see all code": ("plan", drop("deps", "stages"), "plan does not depend on stages"),
    "a section is missing": ("generate", drop("params", "generation"), "generate reads params.generation"),
    "a helper's section is missing": ("retrain", drop("params", "retraining"), "retrain reads params.retraining"),
    "a borrowed function's section is missing": (
        "pseudo_label",
        drop("params", "augment"),
        "pseudo_label reads params.augment",
    ),
    "a part of a section is missing": (
        "prepare",
        drop("params", "augment.flips"),
        "prepare reads params.augment.flips",
    ),
    "a section is not read": ("evaluate", add("params", "classifier"), "evaluate lists params classifier"),
    "a part is not read": ("prepare", add("params", "augment.strength"), "prepare lists params augment.strength"),
    "a script reads one more": (
        "stages/augment.py",
        "def main(params):\n    return params.teachers.folds",
        "augment reads params.teachers.folds",
    ),
    "the library reads one more on a stage's behalf": (
        "pipeline/selection/rules.py",
        "def wanted(counts, scarce, dose, cap):\n    return self.params.teachers.folds",
        "generate reads params.teachers.folds",
    ),
    "what an asked property reads is missing": ("evaluate", drop("params", "profile"), "evaluate reads params.profile"),
    "a property that is not asked for": ("generate", add("params", "quick"), "generate lists params quick"),
    "a property reads one more": (
        "pipeline/params/__init__.py",
        "class Params:\n    @property\n    def compared(self):\n        return self.teachers.folds",
        "evaluate reads params.teachers.folds",
    ),
    "params.yaml is read as text": (
        "stages/fit_generator.py",
        "def main(params):\n    return open('params.yaml')",
        "fit_generator reads params.evaluation",
    ),
    "the test split is a dependency": ("retrain", add("deps", TEST), f"retrain is handed {TEST}"),
    "the test split is an argument": ("fit_generator", say(f" {TEST}"), f"fit_generator is handed {TEST}"),
    "a file of the test split": ("generate", add("deps", f"{TEST}/table.parquet"), f"generate is handed {TEST}/table"),
    "a folder around the test split": ("measure_fidelity", say(" data/real"), "measure_fidelity is handed data/real"),
    "an output escapes the cache": (
        "generate",
        lambda stage: stage.update(outs=[{stage["outs"][0]: {"cache": False}}]),
        "generate: data/synthetic",
    ),
    "metrics escape the cache": (
        "evaluate",
        lambda stage: stage.update(metrics=[{"results/m.json": {"cache": False}}]),
        "evaluate: results/m.json",
    ),
    **{
        f"a second command by {sign}": ("prepare", say(f" {sign} true"), "prepare: its cmd is more than one")
        for sign in ("&&", "||", ";", "|", "&", ">")
    },
    "another program": ("prepare", lambda s: s.update(cmd="python stages/prepare.py"), "prepare: its cmd runs no"),
    "a script that is not there": (
        "prepare",
        lambda s: s.update(cmd="python -m stages nope"),
        "prepare: its cmd runs no",
    ),
    "an import upwards": ("pipeline/samples.py", "import pipeline.data.splits", "samples.py imports pipeline/data"),
    "an import sideways": (
        "pipeline/generators/smote.py",
        "from pipeline.classifier import model",
        "smote.py imports pipeline/classifier/model.py",
    ),
    "an import upwards in a function": (
        "pipeline/selection/rules.py",
        "def late():\n    from pipeline.reporting.html import page",
        "rules.py imports pipeline/reporting/html.py",
    ),
    "batches that train": (
        "pipeline/data/loaders.py",
        "import pipeline.training",
        "loaders.py imports pipeline/training",
    ),
    "a library that knows the stages": ("pipeline/seeds.py", "from stages import Output", "seeds.py imports stages"),
    "a room of no floor": ("pipeline/helpers.py", "def helper(): ...", "the room helpers is on no floor"),
    "a library that prints": ("pipeline/seeds.py", "print('hello')", r"seeds.py:\d+ prints"),
    "a library with a command line": ("pipeline/seeds.py", "import sys\nsys.argv", r"seeds.py:\d+ reads the command"),
    "the command line by name": ("pipeline/seeds.py", "from sys import argv", r"seeds.py:\d+ reads the command"),
    **{
        f"unsafe: {text!r} in {file}": (file, text, rf"{Path(file).name}:\d+ {words}")
        for file, text, words in (
            ("pipeline/samples.py", "def late():\n    import pickle", "imports pickle"),
            ("pipeline/samples.py", "import dill", "imports dill"),
            ("pipeline/samples.py", "from cloudpickle import loads", "imports cloudpickle"),
            ("stages/retrain.py", "from joblib import load", "imports joblib"),
            ("stages/retrain.py", "import runpy", "imports runpy"),
            ("stages/retrain.py", "from subprocess import run", "imports subprocess"),
            ("pipeline/training.py", "torch.load('x')", r"uses torch\.load"),
            ("pipeline/training.py", "import torch as t\nt.load('x', weights_only=True)", r"uses torch\.load"),
            ("pipeline/training.py", "reader = torch.load", r"uses torch\.load"),
            ("pipeline/training.py", "from torch import load", r"imports torch\.load"),
            ("pipeline/training.py", "def late():\n    from torch import load as read", r"imports torch\.load"),
            ("pipeline/training.py", "from torch import *", r"imports torch\.\*"),
            ("pipeline/training.py", "torch.jit.load('x')", r"uses torch\.jit\.load"),
            ("pipeline/training.py", "from torch import jit\njit.load('x')", r"uses torch\.jit\.load"),
            ("pipeline/training.py", "from torch.jit import load", r"imports torch\.jit\.load"),
            ("pipeline/training.py", "torch.serialization.load('x')", r"uses torch\.serialization\.load"),
            ("pipeline/training.py", "torch.hub.load('x', 'y')", r"uses torch\.hub\.load"),
            ("pipeline/training.py", "Module.load_from_checkpoint('x')", r"uses Module\.load_from_checkpoint"),
            ("pipeline/training.py", "build().load_from_checkpoint('x')", r"uses \?\.load_from_checkpoint"),
            ("pipeline/training.py", "read(weights_only=False)", "calls read without weights_only"),
            ("stages/report.py", "pd.read_pickle('x')", r"uses pandas\.read_pickle"),
            ("stages/report.py", "import pandas\npandas.read_pickle('x')", r"uses pandas\.read_pickle"),
            ("stages/report.py", "from pandas import read_pickle", r"imports pandas\.read_pickle"),
            ("stages/report.py", "np.load('x')", r"calls numpy\.load without"),
            ("stages/report.py", "np.load('x', allow_pickle=True)", r"calls numpy\.load without"),
            ("stages/report.py", "import numpy\nnumpy.load('x', allow_pickle=True)", r"calls numpy\.load without"),
            ("stages/report.py", "from numpy import load", r"imports numpy\.load"),
            ("stages/report.py", "np.lib.format.read_array(f, allow_pickle=yes)", r"calls numpy\.\S+ without"),
            ("pipeline/params/__init__.py", "YAML()", "reads YAML"),
            ("pipeline/params/__init__.py", "ruamel.yaml.YAML(typ='unsafe')", "reads YAML"),
            ("pipeline/params/__init__.py", "import yaml\nyaml.unsafe_load('x')", r"uses yaml\.unsafe_load"),
            ("stages/check.py", "os.system('true')", r"uses os\.system"),
            ("stages/check.py", "from os import system", r"imports os\.system"),
            ("stages/check.py", "import os as o\no.execvp('true', [])", r"uses os\.execvp"),
            ("stages/check.py", "eval('1')", "uses eval"),
            ("stages/check.py", "frame.eval('1')", r"uses frame\.eval"),
            ("stages/check.py", "exec('1')", "uses exec"),
            ("stages/check.py", "__import__('x')", "uses __import__"),
        )
    },
    "a long function": ("stages/prepare.py", "def long():\n" + "    1\n" * 50, "prepare.py: long has 51 lines"),
    "a long file": ("pipeline/seeds.py", "# more\n" * 300, r"seeds.py has \d+ lines"),
    "torchvision": ("pipeline/data/augment.py", "import torchvision.transforms", "augment.py imports torchvision"),
    "torchvision in a function": (
        "stages/report.py",
        "def late():\n    from torchvision import utils",
        "report.py imports torchvision",
    ),
    "a slow start": ("stages/prepare.py", "import lightning.pytorch as pl", "prepare imports lightning at its start"),
    "a slow start by the library": (
        "pipeline/evaluation/scores.py",
        "import torch",
        "report imports torch at its start, by pipeline/evaluation/scores.py",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, copy, clean):
    file, change, words = FAULTS[fault]
    plant(copy, file, change)
    new = set(problems(copy)) - clean
    assert any(re.search(words, line) for line in new), new


def test_a_copy_has_the_problems_of_the_original_and_no_others(copy, clean):
    assert {p for p in problems(copy) if not p.startswith(("tests/", "benchmarks/"))} == clean


@pytest.mark.parametrize(
    ("file", "harmless"),
    [
        ("pipeline/training.py", "from pipeline.data.loaders import Rows"),
        ("stages/prepare.py", "def late():\n    import lightning"),
        ("pipeline/seeds.py", "def short():\n" + "    1\n" * 49),
        ("pipeline/seeds.py", "footprint(1)\nargv = 'sys.argv'"),
        ("pipeline/training.py", "network.eval()\nSamples.load('x')\nnetwork.load_state_dict({})"),
        ("stages/report.py", "np.load('x', allow_pickle=False)\njson.loads('{}')\nYAML(typ='safe').load('x')"),
        ("stages/report.py", "if TYPE_CHECKING:\n    import torch"),
        ("stages/augment.py", "def unused(params):\n    return params.teachers"),
    ],
)
def test_what_is_allowed_is_not_a_problem(file, harmless, copy, clean):
    plant(copy, file, harmless)
    assert set(problems(copy)) <= clean
