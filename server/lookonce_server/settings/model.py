"""Settings of the model and of the engine that runs it."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

BUNDLED = "bundled"


class ModelSettings(BaseModel):
    """Choose the model, the engine that runs it, and how much it does at once."""

    model: Annotated[str, Field(description="checkpoint folder, hub name, or 'bundled' for the model that ships")] = (
        BUNDLED
    )
    served_name: Annotated[
        str | None, Field(description="the model's name in the API; default: its last path part")
    ] = None
    engine: Annotated[
        Literal["transformers", "vllm"], Field(description="what runs the model: embedded, or for traffic")
    ] = "transformers"
    vllm: Annotated[
        dict[str, Any],
        Field(description="options of vLLM's engine; as flags: --vllm-tensor-parallel-size 2, for any that it has"),
    ] = {}
    handover_dir: Annotated[
        Path | None,
        Field(
            description="folder in which contexts are handed to vLLM's processes; default: in memory if there is room"
        ),
    ] = None
    handover_bytes: Annotated[
        int, Field(ge=0, description="bytes of contexts that are kept in that folder for the next questions")
    ] = 256 * 1024 * 1024
    device: Annotated[str, Field(description="'cpu', 'cuda', 'cuda:1', or 'auto'; vLLM finds its devices itself")] = (
        "auto"
    )
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="arithmetic of the model; auto: float32 on a CPU, bfloat16 on a GPU"),
    ] = "auto"
    trust_remote_code: Annotated[
        bool, Field(description="run code of the checkpoint's own, for models that transformers or vLLM lack")
    ] = False
    max_running: Annotated[int, Field(gt=0, description="passes that run at once (vLLM: --vllm-max-num-seqs)")] = 8
    max_queue: Annotated[
        int, Field(gt=0, description="answers, or describe passes, that wait or run before more get a 429")
    ] = 256
    max_answer_tokens: Annotated[int, Field(gt=0, description="maximum tokens of an answer, and the default")] = 1024
    allow_control_tokens: Annotated[
        bool, Field(description="let texts of requests spell the model's control tokens, as '<|im_start|>'")
    ] = False
    tool_call_parser: Annotated[
        str | None,
        Field(description="vLLM's parser of calls, as 'hermes'; default: by the form that the chat template shows"),
    ] = None

    @property
    def api_model(self) -> str:
        """The model's name in the API: `served_name`, else the last part of its path."""
        if self.served_name:
            return self.served_name
        if self.model == BUNDLED:
            return "lookonce-scenes"
        return os.path.basename(os.path.abspath(os.path.expanduser(self.model))) or "model"

    @field_validator("vllm")
    @classmethod
    def _for_vllm(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and info.data.get("engine") != "vllm":
            raise ValueError("options of vLLM's engine need --engine vllm")
        return value

    @field_validator("tool_call_parser")
    @classmethod
    def _of_vllm(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("engine") != "vllm":
            raise ValueError("vLLM's parsers need --engine vllm; the embedded engine goes by the chat template")
        return value

    @field_validator("device")
    @classmethod
    def _left_to_vllm(cls, value: str, info: ValidationInfo) -> str:
        if value != "auto" and info.data.get("engine") == "vllm":
            raise ValueError("vLLM takes the devices it finds; CUDA_VISIBLE_DEVICES chooses among GPUs")
        return value
