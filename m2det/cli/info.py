"""`m2det info`: print a model file's card, and what its network costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2det.text import printable, undefined_note


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("info", help="print what a model file holds and was trained from")
    parser.add_argument("weights", type=Path, metavar="FILE|DIR", help="a model.safetensors, or a folder of a release")
    parser.set_defaults(run=lambda arguments: print(describe_model(arguments.weights)))


def describe_model(path: Path, results: Path = Path("results"), cache: Path = Path("data/cache")) -> str:
    """Return a model file's card as text, with whether the metrics in `results` are of this model and this cache.

    Raises:
        InputError: The file is not a model written by m2det.
    """
    from m2det.evaluate.record import describe_record
    from m2det.model import prior_boxes
    from m2det.model.flops import forward_flops
    from m2det.model.model_file import find_model, load_trained

    path = find_model(path)
    model, card = load_trained(path)
    config = model.config
    lines = [
        ("model", card["model"] + "".join(f", {key} {value}" for key, value in sorted(card["overrides"].items()))),
        ("input", f"{config.size} x {config.size} px, BGR"),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("forward", f"{forward_flops(model) / 1e9:,.1f} GFLOP per image"),
        ("priors", f"{len(prior_boxes(config)):,} on maps of {', '.join(map(str, config.feature_sizes))} cells"),
        ("classes", f"{len(card['classes'])}: {', '.join(map(str, card['classes']))}"),
        ("trained", _training(card)),
        *((f"sha256 of {name}", str(value)) for name, value in sorted(card["hashes"].items())),
        *((name, str(value)) for name, value in sorted(card.get("params", {}).items())),
        *((f"md5 of {name}", value) for name, value in sorted(card.get("deps", {}).items())),
    ]
    if evaluation := describe_record(results, path, cache):
        lines.append(("evaluation", evaluation))
    lines = [(printable(name), printable(value)) for name, value in lines]  # a card's text comes from a file
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _training(card: dict[str, Any]) -> str:
    if "trained" not in card:
        return "elsewhere: converted from an original checkpoint"
    trained = card["trained"]
    scorer = f", by {trained['scorer']}" if "scorer" in trained else ""
    ap = f"AP {trained['AP']}, AP50 {trained['AP50']}{undefined_note(trained['AP'])} in training{scorer}"
    return f"{trained['epoch']} epochs, {trained['step']} steps; {ap}"
