"""The pictures of a study: history, importances, parallel coordinates, slices and, of two objectives, the front."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from logger.pictures import save_figure


def draw_all(study: optuna.Study, folder: Path, names: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Draw into .png files in the folder; return ({title: file}, [why a picture is missing]). names: of objectives."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(done) < 2:
        return {}, ["Pictures need two trials that have ended."]
    pictures, notes = {}, []
    for title, file, draw, options in _pictures(names):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # these functions of Optuna are said to be experimental
                draw(study, **options)
                # "tight" puts the colour bar of several slices over their points; the other fails for other figures
                several_slices = file.startswith("slices") and len(plt.gcf().axes) > 2
                plt.gcf().set_layout_engine("constrained" if several_slices else "tight")
                save_figure(plt.gcf(), folder / file)
            pictures[title] = folder / file
        except (ValueError, RuntimeError, ImportError) as error:  # such as importances of equal values
            notes.append(f"{title}: {error}")
        finally:
            plt.close("all")
    return pictures, notes


def _pictures(names) -> Iterator[tuple[str, str, Callable[..., Any], dict[str, Any]]]:
    """(title, file, function that draws a study, its further arguments)."""
    from optuna.visualization import matplotlib as draw

    kinds = {
        "history": ("History", draw.plot_optimization_history),
        "importances": ("Importances (fANOVA)", _draw_importances),
        "parallel": ("Parallel coordinates", draw.plot_parallel_coordinate),
        "slices": ("Slices", draw.plot_slice),
    }
    for i, name in enumerate(names):
        options = {"target_name": name}
        if len(names) > 1:
            options["target"] = lambda trial, i=i: trial.values[i]
        for file, (title, function) in kinds.items():
            several = len(names) > 1
            place = f"{file}-{i + 1}.png" if several else f"{file}.png"
            yield f"{title} of {name}" if several else title, place, function, options
    if len(names) == 2:
        yield "Pareto front", "front.png", draw.plot_pareto_front, {"target_names": list(names)}


def _draw_importances(study, **options):
    if find_spec("sklearn") is None:
        raise ImportError("need scikit-learn: pip install '.[sweep]'")
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    optuna.visualization.matplotlib.plot_param_importances(study, evaluator=evaluator, **options)
