"""torchvision and torchaudio, as pip brings them for vLLM, import next to a torch without CUDA."""

import subprocess
import sys

import pytest
import torch

WITHOUT_HELP = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != '_Finder']\n"
SPAWNED = """
import multiprocessing
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=__import__, args=("{name}",))
    child.start()
    child.join()
    raise SystemExit(child.exitcode)
"""
pytestmark = pytest.mark.skipif(bool(torch.version.cuda), reason="with CUDA there is nothing to help with")


def run(code: str, tmp_path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(code)
    return subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("name", ["torchvision", "torchaudio"])
def test_without_help_the_import_fails_and_with_it_it_works_in_spawned_processes_too(name, tmp_path):
    alone = run(f"{WITHOUT_HELP}import {name}", tmp_path)
    assert alone.returncode == 1
    assert "torchvision::nms" in alone.stderr or "Could not load this library" in alone.stderr
    helped = run(f"import {name}", tmp_path)
    assert helped.returncode == 0, helped.stderr
    spawned = run(SPAWNED.format(name=name), tmp_path)
    assert spawned.returncode == 0, spawned.stderr


def test_transforms_work(tmp_path):
    code = "import torch\nfrom torchvision.transforms import v2\nprint(v2.Resize(4)(torch.zeros(3, 8, 8)).shape)"
    assert run(code, tmp_path).stdout == "torch.Size([3, 4, 4])\n"


def test_torchcodec_is_as_if_not_installed(tmp_path):
    code = "try:\n    import torchcodec\nexcept ImportError as error:\n    print(error)"
    assert run(code, tmp_path).stdout == "torchcodec's build does not fit this torch\n"


def test_with_cuda_the_error_is_left_as_it_is(tmp_path):
    found = run("import torch\ntorch.version.cuda = '13.0'\nimport torchvision", tmp_path)
    assert found.returncode == 1
    assert "torchvision::nms" in found.stderr


def test_nothing_heavy_is_imported_at_the_start(tmp_path):
    heavy = "{'torch', 'torchvision', 'numpy', 'pydantic', 'fastapi'}"
    found = run(f"import sys\nprint({heavy} & sys.modules.keys())", tmp_path)
    assert found.stdout == "set()\n"
