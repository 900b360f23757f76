"""Throughput and latency over time, as PNG files; needs the extra `sim`."""

from pathlib import Path

from simulations.bench.bench import Result
from simulations.bench.options import OptionError


def check() -> None:
    """Raise OptionError unless plots can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401 - asked for before anything is measured
    except ImportError as error:
        raise OptionError(
            "--plot draws with matplotlib, which is not installed: pip install 'medpact[sim]'."
        ) from error


def draw(result: Result, directory: Path) -> list[Path]:
    """Draw a file for each loaded phase; its directory is made. Raises OSError."""
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    phases = {"saturation": result.saturation}
    phases |= {f"open-{share.rstrip('%')}": loop for share, loop in result.open_loops.items()}
    drawn: list[Path] = []
    for name, phase in phases.items():
        figure = Figure(figsize=(7, 6), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        seconds = [each.second for each in phase.series]
        upper.step(seconds, [each.transactions for each in phase.series], where="post")
        upper.set(ylabel="transactions final in a second", title=name)
        for label in ("p50_ms", "p99_ms"):
            sent = [each for each in phase.series if each.p99_ms]
            values = [getattr(each, label) for each in sent]
            lower.plot([each.second for each in sent], values, label=label.removesuffix("_ms"))
        lower.set(xlabel="seconds, with warming up and settling", ylabel="latency by second, ms")
        lower.legend()
        for axes in (upper, lower):
            axes.set_ylim(bottom=0)
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=120)
        drawn.append(path)
    return drawn
