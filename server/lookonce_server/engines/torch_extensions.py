"""Make torchvision importable in the processes of vLLM; see `lookonce_torch`."""

from lookonce_torch import install


def vllm_plugin() -> None:
    """Install it in a process of vLLM, as a platform plugin that is no platform.

    vLLM calls these in all of its processes when its first module asks for the platform, which is before any imports
    torchvision; its general plugins are called too late. Unless VLLM_TARGET_DEVICE is "cpu", which skips them.
    """
    install()
