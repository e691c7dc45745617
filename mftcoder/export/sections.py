"""The sections of a model card, as Markdown."""

import json
import os
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Config
from mftcoder.data.chat import encode_prompt
from mftcoder.data.fim import sentinel_ids
from mftcoder.data.records import Conversation, Message
from mftcoder.export.verify import describe
from mftcoder.losses.reductions import build_reduction
from mftcoder.models.model_config import load_config
from mftcoder.report.run_folder import mapping
from mftcoder.tasks import TaskSet
from mftcoder.training.checkpoint import Checkpoint
from mftcoder.versions import versions

QUESTION = "Write a function that reverses a list."


def introduction(config: Config, found: Checkpoint, *, merged: bool) -> str:
    hub_id = base_id(config)
    base = f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else f"`{without_machine(config.model.path)}`"
    if config.model.revision:
        base += f" at revision `{config.model.revision}`"
    lora, quantized = config.model.lora, config.model.quantization
    if lora is None:
        how = "all parameters were trained"
    else:
        held = f" on the base model held in 4 bits ({quantized.type})" if quantized else ""
        end = "merged into its weights" if merged else "here alone, to be used with peft"
        if quantized and merged:
            end = f"merged into its dequantized weights, in {config.model.dtype}"
        how = f"low-rank adapters of rank {lora.rank} were trained{held}; they are {end}"
    return (
        f"{base}, fine-tuned on {len(config.data.tasks)} task(s) at once with "
        f"[mftcoder](#versions-and-settings): {how}. Checkpoint of step {found.step:,}."
    )


def usage(config: Config, tokenizer: PreTrainedTokenizerFast, *, merged: bool) -> str:
    load = 'model = AutoModelForCausalLM.from_pretrained("MODEL", dtype="auto", device_map="auto")'
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if not merged:
        load = 'model = AutoPeftModelForCausalLM.from_pretrained("MODEL", dtype="auto", device_map="auto")'
        imports = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
    trust = config.model.trust_remote_code
    code = f'{imports}\n\ntokenizer = AutoTokenizer.from_pretrained("MODEL")\n{load}\n'
    if trust:
        code = code.replace('("MODEL"', '("MODEL", trust_remote_code=True')
    chat = Conversation((Message("user", QUESTION, False),))
    if tokenizer.chat_template:
        code += (
            f'messages = [{{"role": "user", "content": "{QUESTION}"}}]\n'
            'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)\n"
        )
    else:
        code += 'inputs = tokenizer("def reverse(", return_tensors="pt")\n'
    code += (
        "output = model.generate(**inputs.to(model.device), max_new_tokens=256)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
    )
    text = f"```python\n{code}\n```\n\n`MODEL` is this folder, or its id on the hub."
    if tokenizer.chat_template:
        prompt = tokenizer.decode(encode_prompt(chat, tokenizer))
        text += f" The chat template is the one it was trained with; it makes of these messages:\n\n{_fenced(prompt)}"
    else:
        text += " It was trained on plain text and has no chat template."
    if not merged and len(tokenizer) > load_config(config.model).get_text_config().vocab_size:
        text += (
            "\n\nThe base model has no rows for the new tokens; `AutoPeftModelForCausalLM` adds them by itself. By "
            'hand: `base.resize_token_embeddings(len(tokenizer))`, then `PeftModel.from_pretrained(base, "MODEL")`.'
        )
    return text + _infilling(config, tokenizer)


def _infilling(config: Config, tokenizer: PreTrainedTokenizerFast) -> str:
    fim = next((task.fim for task in config.data.tasks if task.fim), None)
    if fim is None:
        return ""
    before = tokenizer.convert_ids_to_tokens(list(sentinel_ids(fim, tokenizer)))
    prefix, suffix, middle = (f"`{token}`" for token in before)
    return f"\n\nIt fills holes: after {prefix} prefix {suffix} suffix {middle} it writes what stands between the two."


def _fenced(text: str) -> str:
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def tasks(config: Config, info: dict[str, Any], validation: dict[str, Any] | None) -> str:
    data = mapping(info.get("data"))
    counts, losses = mapping(data.get("tasks")), mapping(validation and validation.get("losses"))
    ratios = mapping(validation and validation.get("ratios"))
    lines = [
        "| Task | Training samples | Tokens | of these supervised | Held-out samples "
        f"| Loss (nats per {unit(config)}) | Change |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for task in config.data.tasks:
        count = mapping(counts.get(task.name))
        numbers = [count.get(key) for key in ("samples", "tokens", "supervised_tokens", "validation_samples")]
        loss, ratio = losses.get(task.name), ratios.get(task.name)
        cells = [task.name, *("–" if number is None else f"{number:,}" for number in numbers)]
        cells += ["–" if loss is None else f"{loss:.4f}", "–" if ratio is None else f"{ratio - 1:+.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines)
    if validation:
        text += (
            f"\n\nThe loss is the mean negative log-likelihood of held-out samples at step {validation['step']:,}; the "
            "change is against the model before training."
        )
    if fingerprint := data.get("fingerprint"):
        text += f" Fingerprint of the packed data: `{fingerprint}`."
    return text


def training(
    config: Config, info: dict[str, Any], found: Checkpoint, findings: dict[str, Any] | None, *, merged: bool
) -> str:
    training, weighting, reduction = config.training, config.loss.weighting, config.loss.reduction
    rows = [
        ("Task weighting", f"`{_compact(weighting.model_dump(mode='json'))}`"),
        ("Reduction", f"`{_compact(reduction.model_dump(mode='json'))}`"),
        (
            "Steps",
            f"{found.step:,} of {info.get('total_steps', found.step):,}; epoch {found.state.get('epoch', 0):.2f}",
        ),
        ("Rows per step", f"{info.get('rows_per_step', '–')} of {config.data.sequence_length:,} tokens"),
        (
            "Learning rate",
            f"`{_compact(training.model_dump(mode='json')['learning_rate'])}`, {training.lr_scheduler_type}",
        ),
        ("Precision", config.model.dtype),
        ("Ranks", str(info.get("world_size", "–"))),
        ("Seed", str(config.seed)),
    ]
    if config.model.lora:
        rows.append(("LoRA", f"`{_compact(config.model.lora.model_dump(mode='json'))}`"))
    if config.model.quantization:
        rows.append(("Quantization", f"`{_compact(config.model.quantization.model_dump(mode='json'))}`"))
    text = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])
    if findings is None:
        return f"{text}\n\nThis export was not compared with the trained model."
    against = (
        "the adapters on the base model in 4 bits" if config.model.quantization and merged else "the trained model"
    )
    return f"{text}\n\nReloaded by transformers in a fresh process and compared with {against}: {describe(findings)}."


def _compact(value: Any) -> str:
    return json.dumps(without_machine(value), ensure_ascii=False).replace("|", "\\|")


def licence(config: Config, base: dict[str, Any], keys: dict[str, Any]) -> str:
    if config.export.license:
        return f"`{keys['license']}`, as its authors set it."
    if "license" in base and keys["license"] == base["license"]:
        return f"`{keys.get('license_name', keys['license'])}`, that of the base model's card."
    return (
        "Not known: the base model's card, if it has one, could not be read or names none. What the base model and the "
        "training data allow holds for this model too."
    )


def limitations(config: Config, *, merged: bool) -> str:
    lines = [
        "- The losses above are means over held-out samples of the training tasks. They say nothing of other tasks, "
        "nor of whether generated code is correct or safe: run it in a sandbox and review it.",
        "- Like its base model and its training data it can be wrong, biased, or repeat what it was trained on.",
    ]
    if config.model.quantization and not merged:
        lines.append(
            "- The adapter was trained on the base model in 4 bits; on the original weights it is slightly off."
        )
    if config.export.limitations:
        lines.append(f"\n{config.export.limitations}")
    return "\n".join(lines)


def settings(config: Config, info: dict[str, Any]) -> str:
    trained = {"mftcoder": info.get("mftcoder", "–"), **mapping(info.get("versions"))}
    exported = versions()
    differing = {key: value for key, value in exported.items() if trained.get(key, value) != value}
    text = "Trained with " + ", ".join(f"{key} {value}" for key, value in trained.items()) + "."
    if differing:
        text += " Exported with " + ", ".join(f"{key} {value}" for key, value in differing.items()) + "."
    content = json.dumps(without_machine(config.model_dump(mode="json")), indent=2, ensure_ascii=False)
    return f"{text}\n\n<details><summary>The whole config</summary>\n\n```json\n{content}\n```\n\n</details>"


def without_machine(value: Any) -> Any:
    """``value`` (JSON) with every absolute path cut to its last part, and every secret of the environment left out."""
    if isinstance(value, dict):
        return {key: without_machine(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if re.search("TOKEN|SECRET|PASSWORD|API_KEY", name) and len(secret) > 7:
            value = value.replace(secret, f"<{name}>")
    value = re.sub(r"\bhf_[A-Za-z0-9]{16,}", "<token>", value)
    value = re.sub(r"(?<=://)[^/@\s]+@", "", value)  # a password in a URL
    return Path(value).name if value.startswith(("/", "~")) else value


def is_local(config: Config) -> bool:
    return Path(config.model.path).is_dir()


def base_id(config: Config) -> str | None:
    """The base model as others can name it; None if all that is known is a folder of this machine."""
    return config.export.base_model or (None if is_local(config) else config.model.path)


def unit(config: Config) -> str:
    names = TaskSet(tuple(task.name for task in config.data.tasks))
    return build_reduction(config.loss.reduction, names).unit
