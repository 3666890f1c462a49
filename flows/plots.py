"""`python -m flows.plots`: the script that draws the curves of `dvc plots show`, from a package on this disk.

DVC's own page fetches that script from the network. Ours (.dvc/plots.html, named in .dvc/config) takes this file.
"""

from __future__ import annotations

from pathlib import Path

from m2det.files.whole import write_whole

SCRIPT = Path(".dvc/tmp/plots.js")


def main() -> None:
    """Write Vega, Vega-Lite and Vega-Embed as one file."""
    import vl_convert

    names = (f"window.{name} = {name};" for name in ("vega", "vegaLite", "vegaEmbed"))
    write_whole(SCRIPT, vl_convert.javascript_bundle("".join(names)))


if __name__ == "__main__":
    main()
