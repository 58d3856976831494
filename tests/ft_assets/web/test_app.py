"""The page on a small real state: every view and its twin, escaping, what does not exist, and the two changes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from expectations.rules.bootstrap import Interval
from ft_assets.cli import cli
from ft_assets.commands.project import Project
from ft_assets.commands.ui import name_of
from ft_assets.definitions import GATES
from ft_assets.retrieval.jobs import RetrievalEvaluationSummary
from ft_assets.web.answers import Side, compare_answers
from ft_assets.web.app import create_app
from ft_assets.web.data import Filter, file_of, show_table
from ft_assets.web.project import NotFound
from resources.artifacts import Recipe
from resources.files import file_lock
from tests.page_state import HOSTILE, IDS, Adapters, build_adapters, build_encoders, release_collection, run_folder

CONFIG = """
schema_version: 1
corpus: {files: [kb/*.md]}
sft: {base_model: ./model}
dpo: {base_model: ./model}
embedding: {base_model: ./model}
"""
ORIGIN = {"origin": "http://testserver"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def project(root: Path) -> Project:
    return Project(config=root / "config.yaml", state=root / "state")


@pytest.fixture(scope="module")
def adapters(project: Project) -> Adapters:
    return build_adapters(project.state)


@pytest.fixture(scope="module")
def page(project: Project, adapters: Adapters) -> TestClient:
    return TestClient(create_app(project), raise_server_exceptions=True)


@pytest.fixture
def own(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[TestClient, Project, Adapters]]:
    """A state that a test may change."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    project = Project(config=root / "config.yaml", state=tmp_path / "state")
    adapters = build_adapters(project.state)
    yield TestClient(create_app(project)), project, adapters
    if "instance" in project.__dict__:
        project.instance.dispose()


def views(adapters: Adapters) -> list[str]:
    first, second = adapters.first.recipe_id, adapters.second.recipe_id
    old, new = (release.version for release in adapters.releases)
    evaluation = adapters.releases[1].artifacts["adapter_evaluation"]
    return [
        "/",
        "/trainings",
        "/trainings?sort=f1&order=up",
        f"/trainings?ids={first},{second}",
        f"/trainings/sft_adapter/{first}",
        "/releases",
        f"/releases/adapter/compare?before={old}&after={new}",
        f"/releases/adapter/rollback?to={old}",
        "/search",
        "/data",
        "/data/instruction_splits?file=test.parquet",
        "/data/instruction_splits?file=quarantine.jsonl",
        "/reports",
        "/answers/adapter_evaluation?model=sft&mark=wrong",
        f"/reports/card/sft_adapter/{first}",
        f"/lineage/adapter_evaluation/{evaluation}?record={IDS[1]}",
    ]


def test_every_view_is_html_without_a_script_of_the_data_and_has_a_twin(page: TestClient, adapters: Adapters):
    for view in views(adapters):
        shown = page.get(view)
        assert shown.status_code == 200, (view, shown.text)
        assert HOSTILE not in shown.text and "style=" not in shown.text, view
        assert re.findall(r"<script[^>]*>", shown.text) == ['<script src="/static/page.js" defer>'], view
        policy = shown.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy
        path, _, query = view.partition("?")
        twin = page.get(f"{'/index' if path == '/' else path}.json?{query}")
        assert twin.headers["content-type"] == "application/json" and twin.json()


def test_a_comparison_shows_settings_curves_scores_and_answers(page: TestClient, adapters: Adapters):
    link = f"/trainings?ids={adapters.first.recipe_id},{adapters.second.recipe_id}"
    view = page.get(link.replace("?", ".json?")).json()
    assert view["settings"] == [{"name": "training.learning_rate", "values": ["0.0001", "0.0005"]}]
    assert view["data"] == []
    assert [len(chart["curves"]) for chart in view["charts"]] == [2] * len(view["charts"])
    scores = {score["title"]: score["difference"]["mean"] for score in view["answers"]["scores"]}
    assert scores["Exact match"] == 0.5
    outcomes = {question["record"]: question["outcome"] for question in view["answers"]["questions"]}
    assert outcomes == {IDS[0]: "equal", IDS[1]: "won", IDS[2]: "won", IDS[3]: "equal"}
    assert view["answers"]["questions"][0]["passages"][0]["id"] == "gcm#tag"
    html = page.get(link).text
    assert html.count("<svg") == len(view["charts"]) and "loss (nats)" in html and "✓ right" in html


def test_the_link_to_dagster_has_the_name_that_the_browser_uses(project: Project, adapters: Adapters):
    page = TestClient(create_app(project, dagster_port=3000), base_url="http://[::1]:3001")
    assert 'href="http://[::1]:3000"' in page.get("/").text
    assert [name_of(host) for host in ("0.0.0.0", "::", "::1", "127.0.0.1", "box")] == [  # noqa: S104
        "localhost", "localhost", "[::1]", "127.0.0.1", "box",
    ]  # fmt: skip


def test_without_test_questions_a_comparison_names_the_ones_it_has(own: tuple[TestClient, Project, Adapters]):
    _, project, adapters = own
    store = project.store
    evaluation = store.find("adapter_evaluation", adapters.releases[1].artifacts["adapter_evaluation"])
    assert evaluation
    sides = [Side(model, evaluation.asset, evaluation.recipe_id, model) for model in ("base", "sft")]
    tested = compare_answers(store, *sides)
    evaluation.summary["validation_questions"] = len(IDS)
    chosen_on = compare_answers(store, *sides)
    assert tested and tested.note == "" and chosen_on and "chosen on" in chosen_on.note


def test_the_table_is_sorted_by_a_column(page: TestClient, adapters: Adapters):
    first, second = adapters.first.recipe_id, adapters.second.recipe_id

    def order(query: str) -> list[str]:
        return [row["recipe"] for row in page.get(f"/trainings.json?{query}").json()["trainings"]]

    assert order("sort=f1&order=up") == [first, second]
    assert order("sort=f1&order=down") == order("") == [second, first]


@pytest.mark.parametrize(
    "path",
    [
        "/trainings/sft_adapter/%2e%2e",
        "/trainings/..%2f..%2fetc/passwd",
        "/trainings/released/adapter",
        "/trainings?ids=../../x",
        "/data/..%2freleased?file=adapter.json",
        "/data/.staging",
        "/data/sft_adapter?file=../../../released/adapter.json",
        "/data/sft_adapter/download?file=/etc/passwd",
        "/data/sft_adapter?recipe=../x",
        "/reports/tables/..%2f..%2freleased/adapter",
        "/reports/card/sft_adapter/%2e%2e",
        "/lineage/..%2fx/y?record=q-1",
        "/releases/..%2fx/compare?before=a&after=b",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
    ],
)
def test_names_that_do_not_exist_lead_nowhere(page: TestClient, path: str):
    answer = page.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text and '"history"' not in answer.text


def test_an_empty_state_says_what_to_run(root: Path, tmp_path: Path):
    empty = TestClient(create_app(Project(config=root / "config.yaml", state=tmp_path)))
    for path in ("/", "/trainings", "/releases", "/search", "/data", "/reports"):
        shown = empty.get(path)
        assert shown.status_code == 200 and "<code" in shown.text and "ft " in shown.text, path


def test_rows_are_filtered_and_a_quarantine_shows_reason_and_raw_line(page: TestClient):
    rows = page.get("/data/instruction_splits.json?file=test.parquet&q=NONCE").json()
    assert (rows["total"], rows["rows"][0]["fields"]["record_id"]) == (1, "q-4")
    rows = page.get("/data/instruction_splits.json?file=test.parquet&column=evidence&q=gcm%23tag&exact=1").json()
    assert rows["total"] == 4
    rows = page.get("/data/instruction_splits.json?file=quarantine.jsonl&q=empty").json()
    assert rows["rows"][0]["fields"]["raw"] == HOSTILE
    file = page.get("/data/instruction_splits/download?file=quarantine.jsonl")
    assert json.loads(file.text)["code"] == "FT-INST-003" and "attachment" in file.headers["content-disposition"]


def test_a_page_after_the_last_is_not_an_empty_quarantine(page: TestClient):
    text = page.get("/data/instruction_splits?file=quarantine.jsonl&page=9").text
    assert "Nothing is quarantined" not in text and "Page 9 is after the last one: 1 row, 1 page" in text


@pytest.mark.parametrize("ends", [[5000], [1234, 1234, 5000]], ids=["one file", "shards"])
def test_a_page_of_many_rows_is_found_across_row_groups(tmp_path: Path, root: Path, ends: list[int]):
    project = Project(config=root / "config.yaml", state=tmp_path)
    with project.store.stage(Recipe(asset="passages", code_version="1")) as staging:
        table = pa.table(
            {"passage_id": [f"p{n}" for n in range(5000)], "text": [["even", "odd"][n % 2] for n in range(5000)]}
        )
        names = ["passages.parquet"] if len(ends) == 1 else [f"passages/{end}.parquet" for end in range(len(ends))]
        for name, start, end in zip(names, [0, *ends], ends, strict=False):
            (staging.path / name).parent.mkdir(exist_ok=True)
            pq.write_table(table.slice(start, end - start), staging.path / name, row_group_size=700)
        if len(ends) > 1:
            listed = [{"name": Path(name).stem} for name in names]
            (staging.path / "passages/shards.json").write_text(json.dumps(listed))
        artifact = staging.publish({})
        project.store.point(artifact)
    plain = show_table(project, "passages", recipe="", file="", look=Filter(), page=29)
    assert [row.number for row in plain.rows] == list(range(701, 726)) and plain.rows[0].fields["passage_id"] == "p700"
    odd = show_table(project, "passages", recipe="", file="", look=Filter(query="ODD", column="text"), page=100)
    assert (odd.total, odd.pages, odd.rows[-1].fields["passage_id"]) == (2500, 100, "p4999")
    assert [(file.name, file.rows) for file in plain.files if file.rows] == [("passages.parquet", 5000)]
    if len(ends) > 1:
        with pytest.raises(NotFound, match="3 files in the state"):
            file_of(artifact, "passages.parquet")


def token(page: TestClient, path: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page.get(path).text)
    return found[1] if found else ""


def test_a_rollback_from_the_page_changes_what_serves(own: tuple[TestClient, Project, Adapters]):
    page, project, adapters = own
    old, new = (release.version for release in adapters.releases)
    form = {"token": token(page, f"/releases/adapter/rollback?to={old}"), "to": old, "why": "wrong answers"}
    stale = page.post("/releases/adapter/rollback", data={**form, "from": old}, headers=ORIGIN)
    assert stale.status_code == 409 and new in stale.text
    assert f'name="from" value="{new}"' in page.get(f"/releases/adapter/rollback?to={old}").text
    form["from"] = new
    assert page.post("/releases/adapter/rollback", data=form, headers=ORIGIN).status_code == 200
    book = project.releases.book("adapter")
    assert book and book.current == old and book.withheld == [new]
    assert book.moves[-1].why == "wrong answers" and "companion page" in book.moves[-1].who
    assert "wrong answers" in page.get("/releases").text


def test_a_release_that_serves_cannot_be_rolled_back_to(own: tuple[TestClient, Project, Adapters]):
    page, project, adapters = own
    old, new = (release.version for release in adapters.releases)
    shown = page.get(f"/releases/adapter/rollback?to={new}").text
    assert f"<code>{new}</code> serves already" in shown and "<form" not in shown
    form = {"token": token(page, f"/releases/adapter/rollback?to={old}"), "from": new, "to": new}
    answer = page.post("/releases/adapter/rollback", data=form, headers=ORIGIN)
    assert answer.status_code == 409 and "serves already" in answer.text
    book = project.releases.book("adapter")
    assert book and book.current == new and len(book.moves) == 2


def test_a_rollback_that_dagster_cannot_record_is_done(own: tuple[TestClient, Project, Adapters]):
    page, project, adapters = own
    old, new = (release.version for release in adapters.releases)
    (project.state / "dagster").write_text("no folder")
    form = {"token": token(page, f"/releases/adapter/rollback?to={old}"), "from": new, "to": old}
    answer = page.post("/releases/adapter/rollback", data=form, headers=ORIGIN)
    assert answer.status_code == 200 and "Dagster could not record it" in answer.text
    current = project.releases.current("adapter")
    assert current and current.version == old


def test_results_about_another_version_are_no_evidence(own: tuple[TestClient, Project, Adapters]):
    page, project, adapters = own

    def judge(gate: str, passed: bool) -> None:
        check = dg.AssetCheckEvaluation(asset_key=dg.AssetKey("sft_adapter"), check_name=gate, passed=passed)
        project.instance.report_runless_asset_event(check)

    def results() -> dict[str, tuple[str, bool]]:
        served = page.get("/releases.json").json()["books"][0]["served"]
        return {
            row["name"]: (row["state"], row["of_served"]) for row in served["checks"] if row["asset"] == "sft_adapter"
        }

    name = next(gate.name for gate in GATES if gate.asset == "sft_adapter" and gate.blocking)
    assert page.get("/releases.json").json()["books"][0]["served"]["checks"] == []  # no run was ever recorded
    judge(name, True)
    project.store.point(adapters.second)
    assert results()[name] == ("passed", True)
    project.store.point(adapters.first)
    assert results()[name] == ("passed", False)
    assert "results are about those" in page.get("/releases").text
    project.store.point(adapters.second)
    project.instance.report_runless_asset_event(dg.AssetMaterialization("sft_adapter"))
    assert results()[name] == ("not judged", True)


def test_the_current_training_shows_the_last_results_of_its_gates(own: tuple[TestClient, Project, Adapters]):
    page, project, adapters = own
    first, second = adapters.first.recipe_id, adapters.second.recipe_id
    encoder = build_encoders(project.state).third.recipe_id
    project.instance.report_runless_asset_event(dg.AssetMaterialization("sft_adapter"))
    name = next(gate.name for gate in GATES if gate.asset == "sft_adapter" and gate.blocking)
    check = dg.AssetCheckEvaluation(asset_key=dg.AssetKey("sft_adapter"), check_name=name, passed=False)
    project.instance.report_runless_asset_event(check)

    def failed(checks: list[dict[str, str]]) -> list[str]:
        return [row["name"] for row in checks if row["state"] == "failed"]

    link = f"/trainings?ids={first},{second}"
    judged = page.get(link.replace("?", ".json?")).json()["judged"]
    assert judged[0]["checks"] == [] and failed(judged[1]["checks"]) == [name]
    assert len(judged[1]["checks"]) == sum(gate.asset == "sft_adapter" for gate in GATES)
    text = page.get(link).text
    assert f"sft_adapter.{name}" in text and text.count("shown for the current training") == 1
    assert failed(page.get(f"/trainings/sft_adapter/{second}.json").json()["checks"]) == [name]
    text = page.get(f"/trainings/embedding_model/{encoder}").text
    assert "not judged" in text and "model_changed" in text and "None yet" not in text


def test_the_gain_over_what_served_is_evidence(own: tuple[TestClient, Project, Adapters]):
    page, project, _ = own
    gain = Interval(mean=0.0123, low=-0.004, high=0.0301, n=40)
    summary = RetrievalEvaluationSummary(
        questions=40, unresolved=0, collection="c1", live="2 of 2", gain_ndcg_at_10=gain, gain_recall_at_10=gain
    )
    release_collection(project.state, summary)
    served = page.get("/releases.json").json()["books"][1]["served"]
    against = {fact["title"]: fact["value"]["mean"] for fact in served["evidence"]}
    titles = ["nDCG@10 against what served before", "Recall@10 against what served before"]
    assert against == dict.fromkeys(titles, 0.0123)
    assert "+0.012" in page.get("/").text and "[-0.004, +0.030]" in page.get("/releases").text


def test_a_damaged_artifact_takes_no_page_down(own: tuple[TestClient, Project, Adapters]):
    page, project, adapters = own
    (adapters.first.path / "contract.json").write_text("{}")
    (project.state / "artifacts/passages/current.json").write_text("no json")
    evaluation = project.state / "artifacts/adapter_evaluation" / adapters.releases[1].artifacts["adapter_evaluation"]
    (evaluation / "answers.parquet").write_bytes(b"damaged")
    project.releases.book("collection")
    (project.state / "released/collection.json").write_text("no json")
    for path in ("/", "/trainings", "/releases", "/data", "/reports"):
        shown = page.get(path)
        assert shown.status_code == 200, (path, shown.text)
    rows = {row["recipe"]: row["damage"] for row in page.get("/trainings.json").json()["trainings"]}
    assert "FT-ART-003" in rows[adapters.first.recipe_id] and rows[adapters.second.recipe_id] == ""
    assert "FT-ART-003" in page.get("/trainings").text and "FT-ART-003" in page.get("/reports").text
    assert "FT-ART-005" in page.get("/data").text
    assert "collection.json" in page.get("/releases").text


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_a_form_of_another_site_changes_nothing(
    page: TestClient, project: Project, adapters: Adapters, headers: dict[str, str]
):
    old, new = (release.version for release in adapters.releases)
    form = {"token": token(page, f"/releases/adapter/rollback?to={old}"), "to": old}
    assert page.post("/releases/adapter/rollback", data=form, headers=headers).status_code == 403
    for wrong in ("x", "é"):
        answer = page.post("/releases/adapter/rollback", data={**form, "token": wrong}, headers=ORIGIN)
        assert answer.status_code == 403
    current = project.releases.current("adapter")
    assert current and current.version == new


def test_a_read_only_page_has_no_form_that_changes_and_takes_none(project: Project, adapters: Adapters):
    page = TestClient(create_app(project, read_only=True))
    old = adapters.releases[0].version
    assert token(page, f"/releases/adapter/rollback?to={old}") == ""
    assert page.post("/releases/adapter/rollback", data={"token": "", "to": old}).status_code == 403


def test_a_running_training_is_shown_and_can_be_stopped(own: tuple[TestClient, Project, Adapters]):
    page, project, _ = own
    folder = run_folder(project.state)
    (folder / "control.yaml").write_text("logging_steps: 5\n")
    link = f"/trainings/sft_adapter/{folder.name}"
    assert page.get(f"{link}.json").json()["training"]["state"] == "stopped"
    with file_lock(folder / "lock"):
        live = page.get(f"{link}.json").json()["training"]["live"]
        assert (live["step"], live["total"], live["figures"]["tokens_per_second"]) == (3, 10, 100.0)
        assert "Step 3 of 10" in page.get(link).text
        form = {"token": token(page, link)}
        assert page.post(f"{link}/stop", data=form, headers=ORIGIN).status_code == 200
        assert "A stop was requested" in page.get(link).text and token(page, link) == ""
        os.utime(folder / "control.yaml", (1, 1))  # left from the run before
        assert "A stop was requested" not in page.get(link).text
    assert (folder / "control.yaml").read_text() == "logging_steps: 5\nstop: true\n"
    assert page.post(f"{link}/stop", data=form, headers=ORIGIN).status_code == 404  # it has ended


def test_a_training_links_to_the_trackers_that_have_it(own: tuple[TestClient, Project, Adapters]):
    page, project, _ = own
    folder = run_folder(project.state)
    (folder / "tensorboard").mkdir()
    (project.state / "mlflow.db").touch()
    places = {"wandb": "https://wandb.example/runs/1", "mlflow": "mlflow.db", "other": "javascript:alert(1)"}
    (folder / "trackers.json").write_text(json.dumps(places))
    address = f"/trainings/sft_adapter/{folder.name}"
    shown = page.get(f"{address}.json").json()["trackers"]
    assert shown == [
        {"name": "TensorBoard", "link": "", "command": f"tensorboard --logdir {folder}/tensorboard"},
        {"name": "MLflow", "link": "", "command": f"mlflow ui --backend-store-uri sqlite:///{project.state}/mlflow.db"},
        {"name": "other", "link": "", "command": "javascript:alert(1)"},
        {"name": "W&B", "link": "https://wandb.example/runs/1", "command": ""},
    ]
    text = page.get(address).text
    assert '<a href="https://wandb.example/runs/1">' in text and 'href="javascript' not in text
    (folder / "trackers.json").write_text("{")  # half of it: a disk was full
    assert page.get(address).status_code == 200


def test_only_trainings_that_did_not_end_are_listed_as_runs(own: tuple[TestClient, Project, Adapters]):
    page, project, adapters = own
    published = run_folder(project.state)
    (published / "final_model").symlink_to("../gone")
    worker = project.state / "runs" / "adapter_evaluation" / "0000000000000001"
    shutil.copytree(published, worker, symlinks=True)
    (worker / "final_model").unlink()
    listed = {row["recipe"] for row in page.get("/trainings.json").json()["trainings"]}
    assert listed == {adapters.first.recipe_id, adapters.second.recipe_id}


def test_chosen_boxes_are_compared_in_the_order_of_time_and_a_written_link_in_its_own(
    page: TestClient, adapters: Adapters
):
    old, new = adapters.first.recipe_id, adapters.second.recipe_id

    def order(query: str) -> list[str]:
        return [row["recipe"] for row in page.get(f"/trainings.json?{query}").json()["trainings"]]

    assert order(f"ids={new}&ids={old}") == [old, new]
    assert order(f"ids={new},{old}") == [new, old]
    assert f"won by sft_adapter {new[:8]}" in page.get(f"/trainings?ids={new}&ids={old}").text


@pytest.fixture
def ft(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FT_CONFIG", str(project.config))
    monkeypatch.setenv("FT_STATE_DIR", str(project.state))
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, prog_name="ft")

    return call


def test_exports_are_one_file_without_links_and_scripts(ft, adapters: Adapters, tmp_path: Path):
    first, second = adapters.first.recipe_id, adapters.second.recipe_id
    old, new = (release.version for release in adapters.releases)
    assert ft("compare", first[:8], second[:8]).exit_code == 0
    assert ft("compare", old, new, "--output", "releases.html").exit_code == 0
    assert ft("report").exit_code == 0
    assert ft("report", new[:8], "--output", "new.html").exit_code == 0
    assert ft("report", old, "--output", "old.html").exit_code == 0
    for name in ("compare.html", "releases.html", "report.html", "new.html", "old.html"):
        text = (tmp_path / name).read_text("utf-8")
        assert not re.search(r"<script|<form|<link|href=|src=", text), name
        assert "Exact match" in text and "--card:" in text
        assert "(now)" not in text and "JSON view" not in text
    assert f"<code>{old}</code> was released with this evidence" in (tmp_path / "old.html").read_text("utf-8")
    assert "loss (nats)" in (tmp_path / "compare.html").read_text("utf-8")


def test_an_empty_id_is_no_beginning_and_one_id_twice_are_not_two(ft, adapters: Adapters, tmp_path: Path):
    first, version = adapters.first.recipe_id, adapters.releases[0].version
    for arguments in (["compare", "", ""], ["compare", first, ""], ["report", ""]):
        refused = ft(*arguments)
        assert refused.exit_code == 2 and "empty" in refused.output, arguments
    for arguments in (["compare", first, first[:9]], ["compare", version, version]):
        refused = ft(*arguments)
        assert refused.exit_code == 2 and "Both ids are" in refused.output, arguments
    assert list(tmp_path.glob("*.html")) == []


def test_two_pages_need_two_ports(ft):
    refused = ft("ui", "--port", "3000", "--page-port", "3000")
    assert refused.exit_code == 2 and "--page-port 3000" in refused.output


def test_exports_of_what_does_not_exist_name_what_does(ft, adapters: Adapters):
    missing = ft("compare", adapters.first.recipe_id, "zzz")
    assert missing.exit_code == 2 and adapters.second.recipe_id in missing.output
    missing = ft("report", "zzz")
    assert missing.exit_code == 2 and adapters.releases[0].version in missing.output
