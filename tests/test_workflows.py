"""The CI workflows, and the make targets that they use. Run: python -m pytest tests/test_workflows.py [-m slow]

Nothing here needs GitHub: the text of each shell step is taken from the workflow and run in a toy repository, with
programs that would take minutes or need a network replaced by small ones that note how they were called.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from test_pipeline import toy_images, toy_project

ROOT = Path(__file__).parents[1]
WORKFLOWS = {f.name: f for f in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
UNTRUSTED = re.compile(r"\$\{\{")  # a run step takes every value from its environment, be it trusted or not
QUICK = "profile=quick"
HIDDEN = "report.show_real_images=false"


def read(name: str) -> dict:
    return YAML(typ="safe", pure=True).load(WORKFLOWS[name])  # YAML 1.2, where `on` is no boolean


def jobs() -> Iterator[tuple[str, str, dict]]:
    for name in WORKFLOWS:
        for job, block in read(name)["jobs"].items():
            yield name, job, block


def steps() -> list[tuple[str, dict]]:
    return [(f"{name}: {job}", step) for name, job, block in jobs() for step in block["steps"]]


def text_of(workflow: str, job: str, name: str) -> str:
    """The shell text of the step of this name."""
    (step,) = [s for s in read(workflow)["jobs"][job]["steps"] if s.get("name") == name]
    return step["run"]


# ---- what is written in them ------------------------------------------------------------------------------------


def test_there_are_two_workflows_with_steps_to_look_at():
    assert list(WORKFLOWS) == ["report.yml", "tests.yml"]
    assert sum("run" in step for _, step in steps()) >= 6


@pytest.mark.parametrize("place, step", [(p, s) for p, s in steps() if "run" in s])
def test_a_shell_step_parses_and_takes_its_values_from_the_environment(place, step):
    done = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{place}: {done.stderr}"
    assert not UNTRUSTED.search(step["run"]), place


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_starts_with_little_power(name):
    spec = read(name)
    assert "pull_request" in spec["on"] and "pull_request_target" not in WORKFLOWS[name].read_text()
    assert spec["permissions"] == {"contents": "read"}
    assert spec["concurrency"]["cancel-in-progress"] is True
    assert spec["defaults"]["run"]["shell"] == "bash", "only then does a failure inside a pipe count"
    assert "secrets." not in WORKFLOWS[name].read_text()


def test_only_the_comment_may_write_and_it_runs_no_code_of_the_pull_request():
    powers = {(name, job): block["permissions"] for name, job, block in jobs() if "permissions" in block}
    assert powers == {("report.yml", "comment"): {"pull-requests": "write"}}
    comment = read("report.yml")["jobs"]["comment"]
    assert not any("checkout" in s.get("uses", "") or "make" in s.get("run", "") for s in comment["steps"])
    for needed in (
        "github.event.pull_request.head.repo.full_name == github.repository",
        "github.event_name == 'pull_request'",
        "vars.REPORT_COMMENT == 'true'",
    ):
        assert needed in comment["if"], "a fork's token, a push and a repository that has not asked for it post nothing"


@pytest.mark.parametrize("name, job, block", list(jobs()))
def test_every_job_ends_and_every_action_is_pinned(name, job, block):
    assert 0 < block["timeout-minutes"] <= 120
    used = [step["uses"] for step in block["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40}", action) for action in used)
    for step in block["steps"]:
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    text = WORKFLOWS[name].read_text()
    assert all(re.search(f"{re.escape(action)}  # v[0-9.]+\n", text) for action in used), "the version stands beside it"


def test_one_action_is_used_in_one_version():
    commits = {}
    for _, step in steps():
        if "uses" in step:
            action, commit = step["uses"].split("@")
            commits.setdefault("/".join(action.split("/")[:2]), set()).add(commit)
    assert all(len(found) == 1 for found in commits.values()), commits


def linters() -> dict[str, str]:
    """The command lines that `make lint` runs on the workflows, by program."""
    recipe = re.search(r"^lint: setup\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    return {line.split()[0]: line.strip() for line in recipe.splitlines() if ".github/workflows" in line}


def lint(folder: Path, linter: str) -> subprocess.CompletedProcess:
    """Run the linter on the workflows in this folder."""
    if not shutil.which(linter, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])):
        pytest.skip(f"{linter} is not installed; make setup installs it")
    return shell(folder, linters()[linter])


@pytest.mark.parametrize("linter", linters())
def test_the_linters_find_nothing_in_the_workflows(linter, tmp_path):
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    done = lint(tmp_path, linter)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("linter", "right", "wrong", "says"),
    [
        ("check-jsonschema", "timeout-minutes: 120", "timeout-minute: 120", "timeout-minute"),
        ("zizmor", "run: make quick\n", "run: make quick ${{ github.head_ref }}\n", "template-injection"),
        ("zizmor", "uses: actions/cache/save", "usess: actions/cache/save", "'usess' was unexpected"),
    ],
)
def test_the_linters_name_a_mistake_in_a_workflow(linter, right, wrong, says, tmp_path):
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    text = WORKFLOWS["report.yml"].read_text()
    assert right in text
    (tmp_path / ".github" / "workflows" / "report.yml").write_text(text.replace(right, wrong))
    done = lint(tmp_path, linter)
    assert done.returncode != 0 and says in done.stdout + done.stderr


def test_every_make_target_that_is_used_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    used = {m for _, step in steps() for m in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))}
    assert used == {"lint", "test", "test-all", "audit", "quick", "gate"} and used <= targets
    documented = set(re.findall(r"(?:^|`|- )make ([\w-]+)", (ROOT / "docs" / "ci.md").read_text(), re.M))
    assert documented <= targets


def test_tests_run_on_each_version_of_python_that_is_promised():
    assert read("tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert set(read("tests.yml")["on"]) == {"push", "pull_request", "schedule"}


def test_results_are_kept_under_what_they_depend_on_and_found_again_by_less():
    steps = {s["name"]: s for s in read("report.yml")["jobs"]["report"]["steps"] if "name" in s}
    restore, save = steps["Restore the results of earlier runs"]["with"], steps["Save the results"]["with"]
    fallbacks = restore["restore-keys"].split("\n")[:-1]
    assert all(f"hashFiles('{lock}')" in restore["key"] for lock in ("dvc.lock", "requirements.lock"))
    assert [restore["key"].startswith(key) for key in fallbacks] == [True] * 3
    assert restore["path"] == save["path"] == ".dvc/cache"


def test_the_workflow_and_make_mean_the_same_by_quick_but_for_pictures_of_real_rows():
    assert read("report.yml")["jobs"]["report"]["env"]["QUICK"] == f"${{{{ vars.QUICK || '{QUICK} {HIDDEN}' }}}}"
    assert HIDDEN in (ROOT / "docs" / "ci.md").read_text()
    assert f",{QUICK})" in (ROOT / "Makefile").read_text()


# ---- what the steps of report.yml do ----------------------------------------------------------------------------


def shell(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the text of a step as a runner does, with the programs in folder/stubs before all others."""
    path = os.pathsep.join([str(folder / "stubs"), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {"HOME": str(folder), "PATH": path, "LC_ALL": "C", **environment}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=env, capture_output=True, text=True)


def git(folder: Path, *arguments: str) -> None:
    name = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def figures(folder: Path, word: str, balanced: float) -> None:
    reports = folder / "reports"
    reports.mkdir(exist_ok=True)
    real = {"balanced_accuracy": balanced, "balanced_accuracy_ci_low": balanced - 0.1, "recall_cat": balanced}
    (reports / "metrics.json").write_text(json.dumps({"real": real, "cgan": {"balanced_accuracy": 0.5}}))
    verdict = {
        "verdict": word,
        "difference": balanced,
        "ci_low": balanced,
        "bars": {"macro": {"ci_high": balanced}},
        "sentence": f"It {word}.",
        "arms": {"real": {"p_value": balanced}},
    }
    (reports / "verdict.json").write_text(json.dumps(verdict))
    (reports / "report.md").write_text(f"# {word}\n\n| arm | role |\n| --- | --- |\n| real | control |\n")


@pytest.fixture
def checkout(tmp_path):
    """As on a runner: a detached commit of a change, with the base branch known as origin/release/1.0."""
    base, folder = tmp_path / "base", tmp_path / "pull request"  # a path with a space
    (base / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc" / "config", base / ".dvc")
    listed = "".join(f"      - reports/{name}.json: {{cache: false}}\n" for name in ("metrics", "verdict"))
    (base / "dvc.yaml").write_text(f"stages:\n  report:\n    cmd: 'true'\n    metrics:\n{listed}")
    (base / ".gitignore").write_text("/.work/\n/stubs/\n/summary*\n")
    figures(base, "NEUTRAL", 0.75)
    git(base, "init", "-q", "-b", "release/1.0")
    git(base, "add", "-A")
    git(base, "commit", "-qm", "base")
    git(tmp_path, "clone", "-q", str(base), str(folder))
    git(folder, "checkout", "-q", "--detach")
    git(folder, "commit", "-q", "--allow-empty", "-m", "change")
    return folder


def summarise(folder: Path, base: str = "release/1.0") -> str:
    """What the real step writes to the summary of the run, with the real dvc and git."""
    for name in ("summary", "outputs"):
        (folder / f"{name}.txt").unlink(missing_ok=True)
    text = text_of("report.yml", "report", "Write the summary")
    places = {"GITHUB_STEP_SUMMARY": str(folder / "summary.txt"), "GITHUB_OUTPUT": str(folder / "outputs.txt")}
    done = shell(folder, text, **places, BASE_REF=base, QUICK=QUICK)
    assert done.returncode == 0, done.stderr
    assert (folder / "outputs.txt").read_text() == "written=true\n"
    written = (folder / "summary.txt").read_text()
    assert (folder / ".work" / "summary.md").read_text() == written
    return written


def test_the_summary_holds_the_report_and_what_changed_against_the_base(checkout):
    figures(checkout, "HELPS", 0.875)
    written = summarise(checkout)
    assert written.startswith("# HELPS\n\n| arm | role |")
    assert "### Compared with origin/release/1.0\n" in written and f"`{QUICK}`" in written
    assert "| Metric | origin/release/1.0 | workspace | Change |" in written
    assert "| verdict | NEUTRAL | HELPS | - |" in written
    assert "| real.balanced_accuracy | 0.75 | 0.875 | 0.125 |" in written
    for left_out in ("ci_low", "ci_high", "recall_cat", "arms.", "sentence", "cgan", "No figure differs"):
        assert left_out not in written, left_out


def test_the_summary_says_when_nothing_changed(checkout):
    assert "\nNo figure differs.\n" in summarise(checkout)


def test_the_summary_says_when_the_base_has_no_figures(checkout):
    git(checkout, "rm", "-q", "reports/metrics.json")
    git(checkout, "commit", "-qm", "none")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "a push to the main branch")
    figures(checkout, "HELPS", 0.875)
    written = summarise(checkout, base="")
    assert "### Compared with HEAD^\n" in written and "nothing to compare with" in written and "| Metric" not in written


def test_a_summary_is_only_called_written_when_there_is_a_report(checkout):
    (checkout / "reports" / "report.md").unlink()
    text = text_of("report.yml", "report", "Write the summary")
    places = {"GITHUB_STEP_SUMMARY": str(checkout / "summary.txt"), "GITHUB_OUTPUT": str(checkout / "outputs.txt")}
    assert shell(checkout, text, **places, BASE_REF="release/1.0", QUICK=QUICK).returncode != 0
    assert not (checkout / "outputs.txt").exists() and not (checkout / "summary.txt").exists()


def test_the_run_the_tidying_and_the_gate_are_one_command_each(tmp_path):
    for name in ("make", "dvc"):
        program(tmp_path / "stubs" / name, f'echo "{name} $@ QUICK=$QUICK" >> calls.txt')
    for name in ("Run the quick profile", "Drop results that this commit does not use", "Gate"):
        assert shell(tmp_path, text_of("report.yml", "report", name), QUICK="q").returncode == 0
    called = (tmp_path / "calls.txt").read_text().splitlines()
    assert called == ["make quick QUICK=q", "dvc gc --workspace --force QUICK=q", "make gate QUICK=q"]


GH = """
echo "$*" >> calls.txt
case "$*" in
  *--paginate*) printf '%s' "$FOUND" ;;
  *body=@*) cp "${*##*body=@}" body.txt; exit "${REFUSED:-0}" ;;
esac
"""


def comment(folder: Path, summary: str, **environment: str) -> tuple[int, list[str], str]:
    """Exit code, the calls of gh, and the body that it was given."""
    program(folder / "stubs" / "gh", GH)
    (folder / "summary.md").write_text(summary)
    known = {"GH_TOKEN": "t", "REPOSITORY": "owner/name", "NUMBER": "7", "RUN_URL": "https://example.org/runs/1"}
    done = shell(folder, text_of("report.yml", "comment", "Post the comment, or renew it"), **known, **environment)
    return done.returncode, (folder / "calls.txt").read_text().splitlines(), (folder / "body.txt").read_text()


MARK = "<!-- augmentation report -->"


def test_the_first_comment_is_posted(tmp_path):
    code, calls, body = comment(tmp_path, "# HELPS\n\nmore `$(touch owned)`\n", FOUND="")
    assert code == 0 and len(calls) == 2
    assert calls[0].startswith("api --paginate repos/owner/name/issues/7/comments --jq .[] | select(.user.login ==")
    assert MARK in calls[0] and '"github-actions[bot]"' in calls[0]
    assert calls[1] == "api --silent --method POST repos/owner/name/issues/7/comments -F body=@comment.md"
    assert (
        body
        == f"{MARK}\n# HELPS\n\nmore `$(touch owned)`\n\n[Run and report with samples](https://example.org/runs/1)\n"
    )
    assert not list(tmp_path.rglob("owned"))


def test_the_next_one_takes_its_place(tmp_path):
    code, calls, body = comment(tmp_path, "# HURTS\n", FOUND="11\n12\n")
    assert code == 0 and len(calls) == 2
    assert calls[1] == "api --silent --method PATCH repos/owner/name/issues/comments/12 -F body=@comment.md"
    assert body.startswith(f"{MARK}\n# HURTS\n")


def test_a_long_text_is_cut_between_lines(tmp_path):
    code, _, body = comment(tmp_path, "# HELPS\n" + "| ein Wört | 0.5 |\n" * 5000, FOUND="")
    assert code == 0 and 55_000 < len(body.encode()) < 65_536
    assert "\n(The rest is in the run.)\n" in body and body.rstrip().endswith("(https://example.org/runs/1)")
    assert set(body.splitlines()[2:-4]) == {"| ein Wört | 0.5 |"}


def test_a_refusal_of_github_fails_the_step(tmp_path):
    assert comment(tmp_path, "# HELPS\n", FOUND="", REFUSED="1")[0] == 1


# ---- make quick, make gate --------------------------------------------------------------------------------------


def equip(folder: Path, *programs: str) -> Path:
    """The Makefile in a folder, with a .venv that counts as set up and hands these programs on to the real ones."""
    for name in ("Makefile", "requirements.lock", "requirements-torch.txt"):
        shutil.copy(ROOT / name, folder)
    locked = b"".join((folder / name).read_bytes() for name in ("requirements.lock", "requirements-torch.txt"))
    number = subprocess.run(["cksum"], input=locked, capture_output=True, check=True).stdout.split()[0].decode()
    for name in programs:
        program(folder / ".venv" / "bin" / name, f'exec "{Path(sys.executable).parent / name}" "$@"')
    (folder / ".venv" / f"ready-{number}").touch()
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["folder", "link", "dangling"])
def test_an_environment_that_make_did_not_make_is_left_alone(tmp_path, kind):
    """Its packages were removed, through a link too."""
    place, other = equip(tmp_path, "dvc"), tmp_path / "other"
    shutil.rmtree(place / ".venv")
    if kind != "dangling":
        other.mkdir()
        (other / "package").touch()
    if kind == "folder":
        other = other.rename(place / ".venv")
    else:
        (place / ".venv").symlink_to(other)
    program(place / "python", "case $1 in -c) ;; *) touch emptied; exit 1 ;; esac")
    done = make(place, "setup", f"PYTHON={place / 'python'}")
    assert done.returncode == 2 and ".venv was not made here" in done.stderr and not (place / "emptied").exists()
    assert kind == "dangling" or (other / "package").exists()


def lanes(place: Path, *wanted: str, fails: str = "none") -> subprocess.CompletedProcess:
    """`make side-by-side` with a dvc that notes what it is asked for; one stage fails as dvc does, all others take a second."""
    stages = ("fit_generator", "generate", "pseudo_label", "retrain")
    for stage in stages:
        for name in ("one", "two"):
            plan = place / "data" / "plan" / stage / f"{name}.json"
            plan.parent.mkdir(parents=True, exist_ok=True)
            plan.write_text(json.dumps({"wanted": name in wanted}))
    listed = "\n".join(f"{stage}@{name}" for stage in stages for name in ("one", "two"))
    case = f"*' {fails}') exit 255 ;; *single-item*@*) sleep 1 ;;"
    text = f'case "$*" in stage*) echo "{listed}" ;; {case} esac; echo "$*" >> asked'
    program(place / ".venv" / "bin" / "dvc", text)
    return make(place, "side-by-side", "LANES=2")


@pytest.mark.parametrize("wanted", [("one", "two"), ("one",), ()])
def test_every_stage_has_one_lane_and_no_dvc_is_asked_for_all_of_them(tmp_path, wanted):
    """Where nothing was left unwanted, a call without a stage meant the whole graph, which kept the other lanes out."""
    place = equip(tmp_path, "dvc")
    done = lanes(place, *wanted)
    calls = (place / "asked").read_text().splitlines()
    assert done.returncode == 0 and not [c for c in calls if c.endswith("--single-item")], (done.stderr, calls)
    assert re.findall(r"^\[(\d) of 6\]", done.stdout, re.M) == list("12345"), "the sixth is of make repro"
    for stage in ("fit_generator", "generate", "pseudo_label", "retrain"):
        for name in ("one", "two"):
            assert sum(f"{stage}@{name}" in call for call in calls) == 1, calls


def test_a_stage_that_fails_lets_those_beside_it_end_before_make_does(tmp_path):
    """dvc answers with 255, at which xargs leaves what it has started: it went on, and the next make was refused."""
    place = equip(tmp_path, "dvc")
    done = lanes(place, "one", "two", fails="fit_generator@one")
    calls = (place / "asked").read_text()
    assert done.returncode == 2 and "fit_generator@two" in calls and "search" not in calls, (done.stderr, calls)


def test_how_many_threads_a_library_may_use_is_not_how_many_stages_run_at_once():
    """`nproc` says what OMP_NUM_THREADS does, which clusters set to 1."""
    told = []
    for more in ({}, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "97"}, {"OMP_THREAD_LIMIT": "1"}):
        env = {k: v for k, v in os.environ.items() if not k.startswith("OMP_") and k != "LANES"} | more
        listed = subprocess.run(["make", "-n", "test"], cwd=ROOT, env=env, capture_output=True, text=True).stdout
        told.append(re.search(r"pytest -n (\d+)", listed)[1])
    assert len(set(told)) == 1


@pytest.mark.parametrize("left", ["nothing", "made-by-make", "ready-7"])
def test_an_environment_that_is_half_made_or_old_is_made_anew(tmp_path, left):
    place = equip(tmp_path, "dvc")
    shutil.rmtree(place / ".venv")
    if left != "nothing":
        (place / ".venv").mkdir()
        (place / ".venv" / left).touch()
    program(place / "python", "case $1 in -c) ;; *) touch begun; mkdir -p .venv; exit 3 ;; esac")
    assert make(place, "setup", f"PYTHON={place / 'python'}").returncode == 2 and (place / "begun").exists()


SEE = "[ $1 = repro ] || exit 0; cp params.yaml seen.yaml; "  # what the graph would be run with


@pytest.fixture
def project(tmp_path):
    """This project's params and stages with a dvc that runs nothing and keeps the params.yaml that it finds."""
    equip(tmp_path, "python")
    program(tmp_path / ".venv" / "bin" / "dvc", SEE)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for name in ("pipeline", "stages", "sets"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def seen(folder: Path) -> dict:
    return YAML(typ="safe", pure=True).load(folder / "seen.yaml")


def left(folder: Path) -> set[str]:
    return {f.name for f in (folder / ".work").glob("params.*")}


def test_quick_runs_with_its_keys_and_puts_params_back(project):
    before = (project / "params.yaml").read_bytes()
    done = make(project, "quick")
    assert done.returncode == 0, done.stderr
    params, shipped = seen(project), YAML(typ="safe", pure=True).load(project / "params.yaml")
    assert params.pop("profile") == "quick" and shipped.pop("profile") == "auto"
    assert params == shipped, "nothing else is changed"
    assert (project / "params.yaml").read_bytes() == before and left(project) == {"params.quick.yaml"}


def test_quick_takes_other_keys(project):
    keys = "retraining.seeds=2 generators.cgan.epochs=3 arms.cvae.quick=false"
    assert make(project, "quick", f"QUICK={keys}").returncode == 0
    params = seen(project)
    assert params["retraining"]["seeds"] == 2 and params["generators"]["cgan"]["epochs"] == 3
    assert not params["arms"]["cvae"]["quick"] and params["arms"]["cgan"]["quick"]
    assert params["profile"] == "auto", "the given keys stand in the place of the usual ones"


def test_quick_with_the_keys_of_the_workflow_hides_real_rows(project):
    assert make(project, "quick").returncode == 0
    usual = seen(project)
    assert usual["report"].pop("show_real_images") is True
    assert make(project, "quick", f"QUICK={QUICK} {HIDDEN}").returncode == 0
    params = seen(project)
    assert params["report"].pop("show_real_images") is False and params == usual


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("profle=quick", "QUICK: Could not override 'profle'"),
        ("retraining.seeds=[", "QUICK: "),
        ("data.source='my photos", "QUICK: No closing quotation"),
        ("profile=fast", "Input should be 'auto', 'full' or 'quick'"),
        ("retraining.seeds=0", "retraining.seeds"),
    ],
)
def test_a_mistake_in_the_keys_is_said_and_leaves_params_as_they_were(project, keys, says):
    before = (project / "params.yaml").read_bytes()
    done = make(project, "quick", f"QUICK={keys}")
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert (project / "params.yaml").read_bytes() == before and not (project / "seen.yaml").exists()


def test_params_that_are_no_yaml_are_not_laid_to_the_keys(project):
    (project / "params.yaml").write_text("seed: 0\n\tprofile: auto\n")
    done = make(project, "quick")
    assert done.returncode == 2 and "params.yaml" in done.stderr and "line 2" in done.stderr
    assert "QUICK" not in done.stderr and "Traceback" not in done.stderr


def test_a_run_that_fails_fails_quick_and_puts_params_back(project):
    before = (project / "params.yaml").read_bytes()
    program(project / ".venv" / "bin" / "dvc", SEE + "exit 3")
    assert make(project, "quick").returncode == 2
    assert (project / "params.yaml").read_bytes() == before and left(project) == {"params.quick.yaml"}


def start(project: Path) -> subprocess.Popen:
    """make quick in the midst of its run, in a process group of its own."""
    program(project / ".venv" / "bin" / "dvc", SEE + "exec sleep 60")
    process = subprocess.Popen(
        ["make", "quick"],
        cwd=project,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    )
    end = time.monotonic() + 60
    while not (project / "seen.yaml").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_puts_params_back(project, number):
    before = (project / "params.yaml").read_bytes()
    process = start(project)
    assert (project / "params.yaml").read_bytes() != before
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert (project / "params.yaml").read_bytes() == before and left(project) == {"params.quick.yaml"}


@pytest.mark.parametrize("call", ["quick", "repro"])
def test_the_next_call_puts_params_back_after_a_kill(project, call):
    before = (project / "params.yaml").read_bytes()
    process = start(project)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert (project / "params.yaml").read_bytes() != before
    program(project / ".venv" / "bin" / "dvc", SEE)
    assert make(project, call).returncode == 0
    assert (project / "params.yaml").read_bytes() == before
    assert (seen(project)["profile"] == "quick") == (call == "quick")


def test_a_repro_beside_a_quick_run_leaves_its_params_alone(project):
    before = (project / "params.yaml").read_bytes()
    process = start(project)
    program(project / ".venv" / "bin" / "dvc", SEE)
    assert make(project, "repro").returncode == 0 and seen(project)["profile"] == "quick"
    assert (project / "params.yaml").read_bytes() != before
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert (project / "params.yaml").read_bytes() == before


def test_an_edit_made_during_the_run_is_kept(project):
    before = (project / "params.yaml").read_bytes()
    program(project / ".venv" / "bin" / "dvc", SEE + "echo '# mine' >> params.yaml")
    done = make(project, "quick")
    assert done.returncode == 0 and "was edited in the meantime" in done.stderr
    assert (project / "params.yaml").read_text().endswith("# mine\n")
    assert (project / ".work" / "params.replaced.yaml").read_bytes() == before


def test_make_passes_the_refusal_of_the_gate_on(project):
    """Make answers every failure with 2; which it was stands in the line and in `Error 1`."""
    (project / "reports").mkdir()
    for word, code in {"HURTS": 2, "NEUTRAL": 0}.items():
        verdict = {"verdict": word, "reason": "seen", "guardrails": [], "refused": []}
        (project / "reports" / "verdict.json").write_text(json.dumps(verdict))
        done = make(project, "gate")
        assert done.returncode == code and f"{word} (seen)" in done.stderr
        assert ("Error 1" in done.stderr) == (code == 2)


@pytest.mark.slow
def test_quick_runs_the_graph_on_a_shallow_detached_checkout(tmp_path):
    origin, checkout = tmp_path / "origin", tmp_path / "checkout"
    toy_images(origin / "toy")
    equip(origin, "python")
    toy_project(origin)
    git(tmp_path, "clone", "-q", "--depth", "1", origin.as_uri(), str(checkout))
    git(checkout, "checkout", "-q", "--detach")
    equip(checkout, "python", "dvc")
    before = (checkout / "params.yaml").read_bytes()
    quick = ("quick", f"QUICK={QUICK} retraining.seeds=6")
    done = make(checkout, *quick, "gate")
    reports = checkout / "reports"
    found = json.loads((reports / "verdict.json").read_text())
    assert ("SHUT" in done.stderr) == (done.returncode != 0), done.stderr[-3000:]  # a toy's guardrails may break
    assert found["seeds"] == 6 and "profile: quick" in (reports / "report.html").read_text()
    assert (checkout / "params.yaml").read_bytes() == before
    again = make(checkout, *quick)
    assert again.returncode == 0 and "Data and pipelines are up to date" in again.stdout, again.stderr[-3000:]
    assert json.loads((reports / "verdict.json").read_text()) == found
