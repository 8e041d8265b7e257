"""The page of a report: its sections as HTML, each left out if the run has nothing for it.

Every text that comes from a file is escaped.
"""

import json

from logger.report.charts import curve_charts, pace_chart
from logger.report.elements import document, escape, escape_lines, folded, section, table
from logger.report.svg import figures
from logger.report.tested import test_sections
from logger.run_files import RunFiles, shortened_to
from logger.run_summary import summarize
from utils.errors import quantity

_MOST_CHARTS = 24


def page(run: RunFiles) -> str:
    """Return the report as one HTML file."""
    summary = summarize(run).with_present_state()
    sections = [_curves(run), *test_sections(run), _config(run), _model(run), _environment(run), _changes(run)]
    head = _head(run, summary)  # it names the files that the others could not read
    return document(f"{run.log_dir.parent.name} {run.log_dir.name}", [head, *sections])


def _head(run, summary):
    """The name, the state, and the figures that count most."""
    tiles = []
    if summary.best is not None:
        name = summary.monitor.partition(" ")[2]
        tiles.append((f"best {name}, epoch {summary.best_epoch}", f"{summary.best:.5g}"))
    if run.details is not None:
        tested = [one for one in run.results if one[:2] == (run.details.checkpoint, run.details.split)]
        for name, value in tested[0][2].items() if tested else ():
            if isinstance(value, float):
                tiles.append((f"{run.details.split} {name}", f"{value:.5g}"))
    if summary.seconds:
        tiles.append(("time of the epochs", _duration(summary.seconds)))
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles[:8])
    description = run.config.get("description")
    problems = "".join(f"<li>{escape(line)}</li>" for line in run.problems)
    return "\n".join(
        [
            f"<header>\n<h1>{escape(run.log_dir.parent.name)} <small>{escape(run.log_dir.name)}</small></h1>",
            f"<p>This run {escape(_state(run, summary))}.</p>",
            f'<p class="note">{escape(description)}</p>' if isinstance(description, str) and description else "",
            f'<dl class="tiles">{shown}</dl>' if shown else "",
            f'<ul class="problems">{problems}</ul>' if problems else "",
            "</header>",
        ]
    )


def _state(run, summary):
    """How far the run has come, in words that follow "this run"."""
    done, planned = summary.epoch, summary.epochs
    # a resume may set fewer epochs than are trained
    epochs = f"epoch {done}" if planned is None or done > planned else f"epoch {done} of {planned}"
    if summary.state == "finished":
        return f"ended after {epochs}" if done else "ended before its first epoch was complete"
    if not run.starts:
        return f"reached {epochs}" if done else "has no complete epoch"
    if summary.state == "running":
        return f"is being trained; {epochs} is complete" if done else "is being trained; no epoch is complete yet"
    return f"stopped before its {f'end; {epochs} is' if done else 'first epoch was'} complete"


def _duration(seconds):
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60:.0f} s" if minutes else f"{seconds:.1f} s"


def _curves(run):
    charts = curve_charts(list(run.rows), run.columns())
    left_out = f'<p class="note">metrics.csv holds {quantity(len(charts) - _MOST_CHARTS, "further column")}.</p>'
    return section(
        "Curves",
        figures([*charts[:_MOST_CHARTS], pace_chart(run.pace)]),
        left_out if len(charts) > _MOST_CHARTS else "",
    )


def _config(run):
    overridden = run.start.get("overridden")
    lines = [str(line).partition(": ") for line in overridden] if isinstance(overridden, list) else []
    changes = table(((path, change) for path, _, change in lines), ("set on the command line", "from -> to"))
    text = json.dumps(run.config, indent=2, ensure_ascii=False) if run.config else ""
    return section(
        "Config",
        changes or ('<p class="note">No value was set on the command line.</p>' if run.starts and run.config else ""),
        folded("the whole config", shortened_to(text, "config.json")),
    )


def _model(run):
    return section("Model", f"<pre>{escape_lines(run.model)}</pre>" if run.model else "")


def _environment(run):
    start = run.start
    rows = [(name, start.get(name)) for name in ("started", "ended", "resumed_from", "host", "platform", "python")]
    command = start.get("command")
    rows.append(("command", " ".join(map(str, command)) if isinstance(command, list) else None))
    rows.append(("starts", len(run.starts) if len(run.starts) > 1 else None))
    rows.append(("threads", start.get("threads")))
    libraries = start.get("libraries")
    known = libraries.items() if isinstance(libraries, dict) else ()
    rows.append(("libraries", ", ".join(f"{name} {version}" for name, version in known if version)))
    rows.append(("folder of checkpoints", run.save_dir if start else None))
    return section("Environment", table((row for row in rows if row[1] not in (None, "")), kind="facts"))


def _changes(run):
    commit = run.start.get("git_commit")
    if not commit:
        return ""
    dirty = run.start.get("git_dirty")
    name = run.start.get("git_diff") if run.changes else None
    state = f"with uncommitted changes, which are in {name}" if name else "with uncommitted changes"
    return section(
        "Code",
        f"<p>Commit <code>{escape(commit)}</code>, {escape(state if dirty else 'without uncommitted changes')}.</p>",
        folded("the uncommitted changes", run.changes, mark_diff=True),
    )
