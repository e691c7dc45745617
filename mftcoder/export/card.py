"""The model card: README.md of an exported folder, written from what the run recorded."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download, metadata_load
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Config
from mftcoder.export.plots import line_plot
from mftcoder.export.record import last_validation, read_metrics
from mftcoder.export.sections import (
    base_id,
    introduction,
    is_local,
    licence,
    limitations,
    settings,
    tasks,
    training,
    unit,
    usage,
)
from mftcoder.report.figures import draw
from mftcoder.report.plots import PLOTS
from mftcoder.report.run_folder import mapping, read_run
from mftcoder.report.summary import summarize
from mftcoder.training.checkpoint import Checkpoint

PLOTTED = ("Validation loss relative to the first", "Validation loss", "Task weights")
PLOT_FOLDER = "plots"


def write_card(
    folder: Path,
    run_folder: Path,
    config: Config,
    found: Checkpoint,
    tokenizer: PreTrainedTokenizerFast,
    *,
    merged: bool,
    findings: dict[str, Any] | None,
) -> None:
    """Write README.md and the plots that it shows into ``folder``; ``findings`` are those of ``verify``."""
    info = json.loads((run_folder / "run.json").read_bytes())
    metrics = [line for line in read_metrics(run_folder) if line["step"] <= found.step]
    validation = last_validation(metrics)
    name = Path(config.output_dir).name or "model"
    base = _base_card(config)
    sections = [
        f"# {name}",
        introduction(config, found, merged=merged),
        "## How to use it",
        usage(config, tokenizer, merged=merged),
        "## Tasks",
        tasks(config, info, validation),
        *_plots(folder, run_folder),
        "## Training",
        training(config, info, found, findings, merged=merged),
        "## Licence",
        licence(config, base, _license(config, base)),
        "## Limitations",
        limitations(config, merged=merged),
        "## Versions and settings",
        settings(config, info),
    ]
    data = _metadata(config, name, validation, base, merged=merged)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n").save(folder / "README.md")


def _base_card(config: Config) -> dict[str, Any]:
    """The metadata of the base model's card; empty if it has none or cannot be reached."""
    try:
        if is_local(config):
            file = Path(config.model.path) / "README.md"
        else:
            file = Path(hf_hub_download(config.model.path, "README.md", revision=config.model.revision))
        return metadata_load(file) or {}
    except Exception:  # of network, hub, disk or YAML: each has its own, and the card can do without
        return {}


def _license(config: Config, base: dict[str, Any]) -> dict[str, Any]:
    """The card's keys about the licence."""
    if config.export.license:
        return {"license": config.export.license}
    known = {key: base[key] for key in ("license", "license_name", "license_link") if isinstance(base.get(key), str)}
    return known if "license" in known else {"license": "other", "license_name": "unknown"}


def _metadata(
    config: Config, name: str, validation: dict[str, Any] | None, base: dict[str, Any], *, merged: bool
) -> ModelCardData:
    hub_data = [
        task.dataset.path for task in config.data.tasks if task.dataset and not Path(task.dataset.path).exists()
    ]
    # Of a local folder nobody else can load, the card names what that folder itself says it was made from.
    base_model = base_id(config) or base.get("base_model")
    relation = ("finetune" if merged else "adapter") if base_model else None
    losses = mapping(validation and validation.get("losses"))
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=f"{task} (held out)",
            dataset_split="validation",
            metric_type="loss",
            metric_name=f"negative log-likelihood per {unit(config)} (nats)",
            metric_value=round(loss, 6),
        )
        for task, loss in losses.items()
        if loss is not None
    ]
    return ModelCardData(
        base_model=base_model,
        base_model_relation=relation,
        datasets=list(dict.fromkeys(hub_data)) or None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["mftcoder", "multi-task", *(["lora"] if config.model.lora else [])],
        model_name=name if results else None,
        eval_results=results or None,
        **_license(config, base),
    )


def _plots(folder: Path, run_folder: Path) -> list[str]:
    """Writes the plots; the paragraphs that show them."""
    run = read_run(run_folder, "run")
    summaries, shown = [summarize(run)], []
    for plot in (plot for plot in PLOTS if plot.title in PLOTTED):
        drawn = draw(plot, [run], summaries, list(run.tasks))
        if drawn is None:
            continue
        (folder / PLOT_FOLDER).mkdir(exist_ok=True)
        file = Path(PLOT_FOLDER) / f"{plot.id}.svg"
        (folder / file).write_text(line_plot(plot.title, drawn), encoding="utf-8")
        shown.append(f"![{plot.title}]({file.as_posix()})")
    return shown
