"""torchvision and torchaudio, as pip brings them for vLLM, import next to a torch without CUDA."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch

INSTALL = "from lookonce_torch import install; install()\n"
PACKAGES = ("lookonce_server", "lookonce_pruning", "lookonce_scenes", "lookonce_evaluation")
SPAWNED = """
import multiprocessing
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=__import__, args=("vllm.v1.engine.core",))
    child.start()
    child.join()
    raise SystemExit(child.exitcode)
"""
pytestmark = pytest.mark.skipif(bool(torch.version.cuda), reason="with CUDA there is nothing to help with")


def run(code: str, tmp_path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(code)
    return subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=240)


@pytest.mark.extended  # torchaudio and torchcodec come with vLLM
def test_without_help_the_import_fails_and_with_it_it_works(tmp_path):
    for name in ("torchvision", "torchaudio"):
        alone = run(f"import {name}", tmp_path)
        assert alone.returncode == 1
        assert "torchvision::nms" in alone.stderr or "Could not load this library" in alone.stderr
    helped = run(
        f"{INSTALL}import torch, torchaudio\nfrom torchvision.transforms import v2\n"
        "print(v2.Resize(4)(torch.zeros(3, 8, 8)).shape)\n"
        "try:\n    import torchcodec\nexcept ImportError as error:\n    print(error)",
        tmp_path,
    )
    assert helped.stdout == "torch.Size([3, 4, 4])\ntorchcodec's build does not fit this torch\n", helped.stderr


@pytest.mark.extended
def test_the_processes_that_vllm_spawns_are_reached(tmp_path):
    (plugin,) = entry_points(group="vllm.platform_plugins", name="lookonce")
    assert plugin.load()() is None
    spawned = run(SPAWNED, tmp_path)
    assert spawned.returncode == 0, spawned.stderr


def test_with_cuda_the_error_is_left_as_it_is(tmp_path):
    failed = run(f"{INSTALL}import torch\ntorch.version.cuda = '13.0'\nimport torchvision", tmp_path)
    assert failed.returncode == 1
    assert "torchvision::nms" in failed.stderr


def test_every_package_that_imports_transformers_mends_them_first(tmp_path):
    """However it is entered: `python -m lookonce_scenes.train` runs the package before its module."""
    for package in PACKAGES:
        code = f"import sys, {package}\nprint('torch' in sys.modules, sys.meta_path[0].__class__.__module__)"
        assert run(code, tmp_path).stdout == "False lookonce_torch\n", package


def test_nothing_heavy_is_imported_by_it(tmp_path):
    heavy = "{'torch', 'torchvision', 'numpy', 'pydantic', 'fastapi'}"
    assert run(f"{INSTALL}import sys\nprint({heavy} & sys.modules.keys())", tmp_path).stdout == "set()\n"
