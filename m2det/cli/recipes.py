"""`m2det recipes` and `m2det use`: list the recipes, write one into params.yaml."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from m2det.text import printable


def add_parser(subparsers: Any) -> None:
    recipes = subparsers.add_parser(
        "recipes", help="list the recipes (parameter sets) that come with m2det, or use one"
    )
    recipes.set_defaults(run=_list)
    actions = recipes.add_subparsers(title="actions", metavar="ACTION")
    actions.add_parser("list", help="print what each recipe is for (the default)")
    for parsers in (actions, subparsers):
        use = parsers.add_parser("use", help="write a recipe into params.yaml")
        use.add_argument("recipe", metavar="NAME", help="a name that `m2det recipes` lists")
        use.set_defaults(run=_use)


def _list(_: argparse.Namespace) -> None:
    from m2det.config.recipes import read_recipe, recipe_names

    print("\n".join(read_recipe(name)[0] for name in recipe_names()), end="")


def _use(arguments: argparse.Namespace) -> None:
    from m2det.config.recipes import use_recipe

    changes = use_recipe(arguments.recipe, Path("params.yaml"))
    print("\n".join(map(printable, changes or ["params.yaml has these values already"])))
