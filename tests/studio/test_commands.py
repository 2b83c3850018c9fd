import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from diorama.cli import SYSTEMS, main
from diorama.media.images import load_image, save_image
from diorama.media.videos import write_video
from diorama.world.sampling import sample_scene

BUILT = [system.name for system in SYSTEMS if system.commands and find_spec(system.commands.partition(":")[0])]
COMMAND = Path(sys.executable).with_name("diorama")


@pytest.fixture
def image(save_scene: Callable[..., Path]) -> Path:
    return save_scene(sample_scene(3, split="test"), "a.png")


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_do_answers_and_writes_only_into_out(
    truthful: object, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path)
    out = tmp_path / "answers"
    assert main(["do", "how many objects are there?", str(image), "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed)
    assert result["steps"][0]["value"] == len(sample_scene(3, split="test").objects)
    assert everything(tmp_path) - before == {
        out,
        *(out / n for n in ("answer.json", "trace.json", "contact_sheet.png")),
    }
    trace = json.loads((out / "trace.json").read_text())
    assert (
        trace["plan"]["steps"][0]["kind"] == "count" and trace["versions"]["torch"] and trace["steps"][0]["seconds"] > 0
    )
    assert load_image(out / "contact_sheet.png").width == 1080


def test_do_says_when_files_are_strange(
    truthful: object, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truthful, "strangeness", 2.5)
    assert main(["do", "how many cubes are there?", str(image), "--out", str(tmp_path / "o"), "--json"]) == 0
    captured = capsys.readouterr()
    line = f"diorama do 'how many cubes are there?' {image} --weights LanguageBind/Video-LLaVA-7B"
    assert line in captured.err and line in json.loads(captured.out)["warnings"][0]


def test_dry_run_prints_the_plan_and_writes_nothing(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(tmp_path)
    assert main(["do", "count the cubes", str(image), "--dry-run", "--out", str(tmp_path / "o")]) == 0
    assert capsys.readouterr().out == '1. count a.png: "how many cubes are there?"\n'
    assert everything(tmp_path) == before


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / {"text": "clip.mp4", "truncated clip": "cut.mp4", "truncated image": "cut.png"}.get(kind, "bad.png")
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no video\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "truncated clip":
        write_video(path, np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), dtype=np.uint8), 12)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "truncated image":
        save_image(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:3000])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "folder", "missing", "truncated clip", "truncated image"])
def test_bad_files_get_one_sentence(
    truthful: object, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bad_file(kind, tmp_path)
    before = everything(tmp_path)
    assert main(["do", "what is there?", str(path), "--out", str(tmp_path / "o"), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and path.name in captured.err
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["do", "blue", "{image}"], "asks nothing"),
        (["do", "what is there?"], "no file"),
        (["do", "what is there?", "{image}", "--device", "gpu"], "device"),
        (["do", "what is there?", "{image}", "--out", "{image}"], "is a file"),
        (["reproduce", "nosystem"], "nosystem"),
        (["reproduce", "tulu"], "no claim"),
        (["reproduce", "--seeds", "0"], "at least one"),
    ],
)
def test_wrong_use_exits_with_2(line: list[str], says: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(image=image) for word in line]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and says in captured.err and captured.err.count("\n") == 1


def test_an_interrupted_write_leaves_the_old_file(
    truthful: object, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o"
    assert main(["do", "count the cubes", str(image), "--out", str(out)]) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}

    def fail(self: Path, *args: object, **rest: object) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", fail)
    assert main(["do", "count the cubes", str(image), "--out", str(out)]) == 2
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_doctor_tells_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"] and found["missing"] == [] and "cpu" in found["devices"]
    assert set(found["extras"]) >= {"agents", "studio"} and found["hub"]["offline"] is True
    for extra in found["extras"].values():
        assert extra["installed"] or extra["install"].startswith("pip install 'diorama[")


@pytest.mark.parametrize(("low", "code"), [(0.1, 0), (-0.1, 1)])
def test_reproduce_reports_what_holds(
    low: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    from diorama.metrics.claims import Arm, Check, Claim
    from diorama.metrics.intervals import Interval
    from diorama.studio import commands

    def reproduce(*, quick: bool, seeds: Sequence[int], out: Path, progress: Callable[[str], None]) -> Claim:
        assert quick and tuple(seeds) == (7,) and out == tmp_path / "video-llava"
        difference = Interval(mean=0.2, low=low, high=0.3, n=9)
        return Claim(
            system="video-llava",
            claim="joint beats single",
            published=(),
            seconds=1.0,
            mode="quick",
            arms=(Arm("joint", {"accuracy": difference}),),
            checks=(Check("joint is better", difference),),
        )

    monkeypatch.setattr(commands, "_claimed", lambda names: {"video-llava": "a.module"})
    monkeypatch.setattr(commands, "import_module", lambda name: SimpleNamespace(reproduce=reproduce))
    line = ["reproduce", "video-llava", "--quick", "--seed", "7", "--out", str(tmp_path)]
    assert main([*line, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["holds"] is (code == 0)
    assert main(line) == code and "joint is better" in capsys.readouterr().out


def cpu_seconds_of_children() -> float:
    """Processor time, so that a busy machine does not fail the budget."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_fast_and_loads_no_torch() -> None:
    for name in ("", "do", *BUILT):
        seconds = []
        for _ in range(3):
            began = cpu_seconds_of_children()
            done = subprocess.run([COMMAND, *name.split(), "--help"], capture_output=True, text=True, check=True)
            seconds.append(cpu_seconds_of_children() - began)
            assert done.stderr == "" and "diorama" in done.stdout
        assert min(seconds) < 1.0, (name, seconds)
    code = (
        f"import sys; from diorama.cli import main\nfor name in {['do', *BUILT]}: assert main([name, '--help']) == 0\n"
        "assert main(['--help']) == 0\nheavy = {'torch', 'transformers', 'diffusers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_installed_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "do", "what is there?", str(tmp_path / "absent.png")], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("diorama: ")
    assert "Traceback" not in done.stderr
