"""Open the study of a run folder: its records, its models, and what the commands on a finished study do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nas.analysis import BEST
from nas.analysis.evidence import RETRAINED, ModelEvidence, gather_evidence, source_words
from nas.analysis.recommendation import evidence_words, recommend
from nas.analysis.retraining import RetrainingSummary
from nas.analysis.run_files import TrainedWeights, recorded_latencies, trained_weights
from nas.analysis.selecting import answer, nothing_fits_line
from nas.analysis.trial_choice import SelectionError, find_by_name, nothing_complete
from nas.cli import logged_work
from nas.command_log import CommandLog
from nas.flags import LATEST
from nas.numbers import fixed
from nas.storage.store import Store
from nas.study.config import SearchConfig
from nas.study.limits import given_limits
from nas.study.records import Measurement, Remeasurement, StudyInfo, TrialRecord
from search_space import NetworkSpec
from search_space.outline import outline

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from backbones import Network
    from nas.retrain.arguments import RetrainSettings
    from reports.summary import StudySummary

ExportFormat = Literal["timm", "hf", "onnx", "torchscript"]
Precision = Literal["fp32", "fp16", "bf16"]


class NothingFits(SelectionError):
    """No model of a study is within the limits; the message names the limits to relax, and by how much.

    Attributes:
        nearest: The model that needs the least relaxed limits; None where a limited quantity is unknown for all models.
    """

    def __init__(self, message: str, nearest: Model | None) -> None:
        super().__init__(message)
        self.nearest = nearest


def load_study(run_dir: str | Path = LATEST) -> Study:
    """Open the study of a run folder, finished or not; a study in another database is read from there.

    Args:
        run_dir: Folder of the study. The default is the search last started or resumed from the current folder.

    Raises:
        StoreError: There is no study, or it cannot be read.
    """
    path = Path(run_dir)
    return Study(path.resolve() if path.is_symlink() else path)


class Study:
    """The study of a search: its settings, its trials, and the models that it trained.

    The records are read once. `refresh` reads them again, as after further trials of a search that still runs.

    Args:
        run_dir: Folder of the study.

    Raises:
        StoreError: There is no study, or it cannot be read.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self.refresh()

    def refresh(self) -> None:
        """Read the study again; models that were selected before keep their numbers."""
        with Store.open(self.run_dir, read_only=True) as store:
            self._records = store.read_all()
        self._retrainings = self._records[1]
        self._evidence = gather_evidence(*self._records)
        self.__dict__.pop("_summary", None)

    def __repr__(self) -> str:
        from reports.headline import result_line

        return f"<Study {self.run_dir.name}: {result_line(self.info, self._summary)}>"

    @cached_property
    def _summary(self) -> StudySummary:
        """Return the numbers of the report."""
        from reports.summary import summarize

        return summarize(self._evidence.study, self._evidence)

    @property
    def info(self) -> StudyInfo:
        """Return the description of the study: objectives, teachers, environment, the command that started it."""
        return self._evidence.record.info

    @property
    def config(self) -> SearchConfig:
        """Return the settings of the search; ConfigError where another version wrote them."""
        return SearchConfig.from_dict(self.info.config)

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """Return the search's records of all trials in the order of their numbers, with failed and running ones."""
        return self._evidence.record.trials

    @property
    def models(self) -> tuple[Model, ...]:
        """Return the models that were measured and trained to the last rung, baselines included, by trial number.

        Their scores are those of the search, so that they can be compared; `retrained` has the retrained ones.
        """
        return tuple(self._model(model) for model in self._evidence.searched)

    @property
    def retrained(self) -> tuple[Model, ...]:
        """Return the retrained models with their mean scores over seeds, the fastest first.

        Compare these scores with each other alone: the models were trained longer than in the search.
        """
        return tuple(self._model(model, retrained=True) for model in self._evidence.retrained)

    def front(self) -> tuple[Model, ...]:
        """Return the models on the Pareto front of the study's objectives, the fastest first, with the search's scores.

        A model that was timed again in the search's setting has its newer measurement, as in the report.
        """
        searched = {model.number: model for model in self._evidence.searched}
        return tuple(self._model(searched[scored.trial.number]) for scored in self._summary.front)

    def best(self) -> Model:
        """Return the model that the report recommends: the winner of the race or, if none passed, the one that leads.

        Before a race, it is the fastest model at least as good as the best baseline or, if there is none or throughput
        was no objective, the model of the highest score; where that model and all baselines were retrained, by their
        retrained scores. `evidence` says which scores decided.

        Raises:
            SelectionError: No candidate was measured and trained to the last rung.
        """
        found = recommend(self._evidence)
        if found is None:
            raise nothing_complete(self._evidence.record)
        return self._model(found.model, found.retrained)

    @property
    def evidence(self) -> str:
        """Return in words which scores and timings `best` is from; "" without a model."""
        found = recommend(self._evidence)
        return "" if found is None else evidence_words(found)

    def model(self, trial: int | str) -> Model:
        """Return the model of a trial.

        Args:
            trial: The trial's number, a baseline's name, the beginning of the architecture's id, or "best" for the
                model of `best`.

        Raises:
            SelectionError: There is no such trial, or it was not measured and trained to the last rung, nor retrained.
        """
        if trial == BEST:
            return self.best()
        found = find_by_name(self._evidence.study, str(trial), "trial")
        model = next((model for model in self._evidence.searched if model.number == found.number), None)
        if model is not None:
            return self._model(model)
        again = next((model for model in self._evidence.retrained if model.number == found.number), None)
        if again is None:
            raise SelectionError(f"{found.name} is {found.state.word}, and was not trained to the last rung")
        return self._model(again, retrained=True)

    def select(
        self,
        *,
        max_params: float | None = None,
        max_gmacs: float | None = None,
        max_latency_ms: float | None = None,
        max_memory_mib: float | None = None,
        min_throughput_img_s: float | None = None,
        remeasurement: str | None = None,
    ) -> Model:
        """Return the model with the highest score within limits, as ``backbone-nas select`` does.

        Retrained scores decide if the best model by the search's scores was retrained. The returned model has its
        chances to be the best of those that fit, and to be within the limits.

        Args:
            max_params: Most parameters.
            max_gmacs: Most multiply-accumulates for one image, in units of 1e9.
            max_latency_ms: Longest median latency of one image in milliseconds.
            max_memory_mib: Most memory of tensors at the peak of a forward pass of the measured batch, in MiB.
            min_throughput_img_s: Least throughput at the measured batch in images per second.
            remeasurement: Name of the remeasurement whose timings alone count; None: the timings in the search's
                setting.

        Raises:
            NothingFits: No model is within the limits; the error has the nearest one.
            SelectionError: No candidate was measured and trained to the last rung, or there is no such remeasurement.
            LimitError: A limit is no positive number.
        """
        limits = given_limits(locals())
        evidence = self._evidence if remeasurement is None else gather_evidence(*self._records, only=remeasurement)
        found = answer(evidence, limits, recorded_latencies(self.run_dir))
        retrained = found.basis == RETRAINED
        if found.best is None:
            nearest = None if found.nearest is None else self._model(found.nearest, retrained)
            raise NothingFits(nothing_fits_line(found, limits), nearest)
        best = found.best
        return replace(self._model(best, retrained), chance_best=best.chance_best, chance_to_keep=best.chance_to_keep)

    def dataframe(self) -> pd.DataFrame:
        """Return a table with one row per trial, typed columns, and units in their names.

        Comparison networks come last: they have a name in `scale`, no number, and the state `measured`;
        ``df[df.scale.isna()]`` is the table without them.
        `score` is the distillation score at the last rung reached (`score_rung`): compare it only between trials of the
        same rung. `on_front` marks the Pareto front. `retrained/score` is the mean of the longer trainings, and
        `measurement/remeasurement` names the remeasurement that a timing is of. A value that a trial lacks is missing
        (NA).
        """
        from reports.dataframe import trial_frame

        return trial_frame(self._evidence.study, self._summary, self._evidence)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, one HTML file that fetches nothing, and return its path.

        Args:
            out: File to write; None for report.html in the run folder.

        Raises:
            StoreError: The study cannot be read.
            OSError: The file cannot be written.
        """
        from reports.page import build_report

        return build_report(self.run_dir, None if out is None else Path(out))

    def plot(self) -> Figure:
        """Draw the Pareto front, relative throughput against distillation score, as the report does.

        A notebook shows the returned figure; its `savefig` writes a file.

        Raises:
            SelectionError: The study has no measurement, or a single objective.
        """
        from reports.paper_figures import draw_front

        figure = draw_front(self._evidence.study, self._summary)
        if figure is None:
            raise SelectionError("there is no front to draw: the study has no measurement, or a single objective")
        return figure

    def retrain(
        self,
        *,
        seeds: int = 3,
        baseline_seeds: int | None = None,
        train_steps: int | None = None,
        near_misses: int = 6,
        baselines: bool = False,
        early_stopped: int = 0,
        workers: int | None = None,
        address: str | None = None,
        device: str | None = None,
        data: str | None = None,
        cache: str | Path | None = None,
    ) -> RetrainingSummary:
        """Train the front and its near misses again with new seeds, and measure them again.

        `select` answers by these trainings from then on, and with `baselines=True` `best` too. Ctrl-C raises
        KeyboardInterrupt; the same call continues, even in the middle of a training. Trainings run in processes of
        their own: in a script, call it under ``if __name__ == "__main__":``.

        Args:
            seeds: Trainings of each model.
            baseline_seeds: Trainings of each baseline, which every lead is compared with; None for `seeds`.
            train_steps: Steps of each training; None for those of a race.
            near_misses: Near misses to retrain in addition to the front, at most.
            baselines: Retrain the baselines too.
            early_stopped: Number of early-stopped models of each rung to retrain too, those closest to the front.
            workers: Trainings at a time; None for one per GPU, or per CPU if the memory suffices.
            address: Of a running Ray cluster, or "auto"; None for this machine alone. Models are timed on this machine.
            device: "auto", "cpu" or "cuda"; None for "auto", a GPU if PyTorch sees one, else the CPU. Models are timed
                on it too: timings on another device than the study's do not decide which model is recommended.
            data: Where the study's images lie, as "imagefolder:PHOTOS"; None for where the search found them.
            cache: Folder of images and teacher outputs; None for that of the search.

        Returns:
            The mean score of each model over its seeds, and its chance to be on the front, after these steps.

        Raises:
            SelectionError: No candidate was measured and trained to the last rung, or every training of these steps
                failed.
            RetrainingFailed: Nothing can be trained here.
            StoreError: Another command retrains the study, or the study cannot be written.
        """
        from nas.retrain.arguments import RetrainSettings

        settings = RetrainSettings(
            self.run_dir, seeds, train_steps, near_misses, baselines, early_stopped=early_stopped, workers=workers,
            address=address, device=device, data=data, cache=None if cache is None else str(cache),
            baseline_seeds=baseline_seeds,
        )  # fmt: skip
        which = f"seeds={seeds}, train_steps={train_steps}, baselines={baselines}"
        call = f"nas.api.load_study({self.run_dir.name!r}).retrain({which})"
        return self._retrain(settings, call)

    def _retrain(self, settings: RetrainSettings, call: str) -> RetrainingSummary:
        from nas.retrain.command import begin_retraining, retraining_summary, train_and_measure

        with CommandLog(), logged_work(), Store.open(self.run_dir) as store:
            records, plan = begin_retraining(store, settings, call)
            train_and_measure(store, records, plan, settings, call)
            summary = retraining_summary(store, records, plan.steps)
        self.refresh()
        if summary is None or all(candidate.mean is None for candidate in summary.candidates):
            raise SelectionError("every training failed; the study keeps the reasons")
        return summary

    def race(
        self,
        *,
        target: str | float | None = None,
        race_by: str | None = None,
        race_steps: int | None = None,
        fresh_images: int | None = None,
        workers: int | None = None,
        address: str | None = None,
        data: str | None = None,
        cache: str | Path | None = None,
    ) -> Model:
        """Train the candidates that may win for long, the fastest first, and return the one that does.

        `best` and reports name it from then on. Ctrl-C raises KeyboardInterrupt; the same call continues.

        Args:
            target: Name of the baseline or number of the trial to be as good as, or a score; None for the best
                baseline, or for the best model in a study with limits.
            race_by: Metric in which the winner has to be as good as the target, too, as "knn"; None for the score.
            race_steps: Steps of each training; None for ten times the study's last rung.
            fresh_images: Images to train on, at most; None for those of the search, or as many more as
                are seen 2.88 times.
            workers: Trainings at a time; None for one per GPU, or per CPU if the memory suffices.
            address: HOST:PORT of a running Ray cluster, or "auto"; None for this machine alone.
            data: Where the study's images lie, as "imagefolder:PHOTOS"; None for where the search found them.
            cache: Folder of images and teacher outputs; None for that of the search.

        Returns:
            The winner or, where no candidate passes, the one that came closest; `evidence` says which.

        Raises:
            SelectionError: There is nothing to race for, the target is unknown, or no candidate is likely to win.
            StoreError: Another command races the study, or the study cannot be written.
        """
        from nas.race.arguments import RaceSettings
        from nas.race.command import race_study
        from nas.race.plan import NOTHING

        settings = RaceSettings(
            self.run_dir, race_steps, fresh_images, None if target is None else str(target), race_by, workers, address,
            cache=None if cache is None else str(cache), data=data,
        )  # fmt: skip
        with CommandLog(), logged_work():
            result = race_study(settings, f"nas.api.load_study({self.run_dir.name!r}).race(target={target!r})")
        self.refresh()
        if result is None or result.best is None:
            raise SelectionError(NOTHING if result is None else "no candidate is likely to win")
        return self.best()

    def remeasure(
        self,
        *,
        trials: str = "front",
        device: str = "auto",
        batch_size: int | None = None,
        img_size: int | None = None,
        runtime: str | None = None,
        measure_seconds: float = 3.0,
        name: str | None = None,
        overwrite: bool = False,
    ) -> Remeasurement:
        """Measure models again, on another device or with other settings, and save the result in the study.

        The same call continues an interrupted one.

        Args:
            trials: "front", "near" (the front and the next two Pareto ranks), "all", or trial numbers; baselines are
                always measured too.
            device: "auto", "cpu", "cuda" or "cuda:N".
            batch_size: Images per call; None as in the study.
            img_size: Side of the images in px, a multiple of 32; None as in the study.
            runtime: Runtime, precision, layout and form, joined by +, as compiled+bf16; None as in the study.
            measure_seconds: Longest timing of each model.
            name: Name of the remeasurement in the study; None for one of device, batch size, image size and runtime.
            overwrite: Replace the existing measurements of this name.

        Returns:
            The measurements by trial number, and the reasons why models have none.

        Raises:
            SelectionError: No candidate was measured and trained to the last rung, or `trials` names none.
            ValueError: A setting is impossible, or the remeasurement of this name has other settings.
            StoreError: Another command measures under this name, or the study cannot be written.
        """
        from nas.remeasure.arguments import RemeasureSettings
        from nas.remeasure.command import begin_remeasuring, measure

        settings = RemeasureSettings(
            self.run_dir,
            trials,
            device,
            batch_size,
            img_size,
            runtime,
            measure_seconds,
            name=name,
            overwrite=overwrite,
        )
        call = f"nas.api.load_study({self.run_dir.name!r}).remeasure(trials={trials!r}, device={device!r})"
        with CommandLog(), logged_work(), Store.open(self.run_dir) as store:
            _, remeasuring, newest = begin_remeasuring(store, settings, call)
            measure(remeasuring, newest, store, settings, call)
        self.refresh()
        return newest[0]

    def _model(self, model: ModelEvidence, retrained: bool = False) -> Model:
        """Return a model with the search's record of its trial, its deciding measurement, and one kind of score."""
        trial = next(trial for trial in self.trials if trial.number == model.number)
        words = source_words(model, retrained)
        return Model(self, trial, model.score, model.measurement, model.seeds, model.steps, words)

    def _weights(self, trial: TrialRecord) -> TrainedWeights | None:
        return trained_weights(self.run_dir, self._evidence.record, trial, self._retrainings)


@dataclass(frozen=True, repr=False)
class Model:
    """A trained model of a study, with what was measured of it.

    Attributes:
        study: The study that it belongs to.
        trial: Its record: every rung with the score of each teacher and head, and the measurement of the search.
        score: Distillation score: mean explained variance (R²) of the teachers' spatial features on held-out images;
            1 is perfect, 0 that of a constant. The mean over seeds, where retrained scores were compared.
        measurement: Throughput with its interval, latency, memory, the device and its conditions: the newest
            one in the search's setting that can be trusted.
        seeds: Trainings that the score is the mean of.
        steps: Steps of each of them. Compare scores only between models of the same number of steps.
        source: Where score and measurement come from, in words.
        chance_best: For a selected model, the chance that it is the best of those within the limits; else None. It
            assumes the deviation between seeds of another study where no model of this one has two seeds.
        chance_to_keep: For a selected model, the chance that it is within the limits; None where no interval is known.
    """

    study: Study = field(compare=False)
    trial: TrialRecord
    score: float
    measurement: Measurement
    seeds: int = 1
    steps: int = 0
    source: str = ""
    chance_best: float | None = None
    chance_to_keep: float | None = None

    @property
    def number(self) -> int:
        """Return the number of its trial."""
        return self.trial.number

    @property
    def name(self) -> str:
        """Return the baseline's name, or "trial N"."""
        return self.trial.name

    @property
    def arch_id(self) -> str:
        """Return the id of its architecture, the hash of the spec."""
        return self.trial.arch_id

    @property
    def spec(self) -> NetworkSpec:
        """Return its architecture, from which `backbones.build_network` builds an untrained model."""
        return self.trial.network

    @property
    def params(self) -> int | None:
        """Return its number of parameters; None where they were not counted."""
        return self.trial.params

    @property
    def macs(self) -> int | None:
        """Return its multiply-accumulates for one image of the study's size; None where they were not counted."""
        return self.trial.macs

    @property
    def throughput_img_s(self) -> float:
        """Return its throughput at the measured batch in images per second."""
        return self.measurement.throughput_img_s

    @property
    def ratio(self) -> float:
        """Return its throughput relative to the study's reference backbone, timed in pairs."""
        return self.measurement.ratio

    @property
    def latency_ms(self) -> float:
        """Return the median latency of one image in milliseconds."""
        return self.measurement.latency_ms

    @property
    def weights(self) -> Path | None:
        """Return the file of the trained weights, those with most training steps; None where there is none."""
        found = self.study._weights(self.trial)
        return None if found is None else found.weights

    def load(self) -> Network:
        """Return the model with its trained weights, in eval mode on the CPU.

        `encode(images)` returns the summary (B, C) and the spatial features (B, D, H / stride, W / stride), sides
        rounded up, of images (B, 3, H, W) whose sides are multiples of 32, normalized as `(x - 0.5) / 0.25` for x in
        [0, 1].

        Raises:
            SelectionError: The weight file is missing.
            WeightsError: The weight file is damaged, or of another architecture.
        """
        from backbones import load

        path = self.weights
        if path is None:
            raise SelectionError(f"the weight file of {self.name} is missing in {str(self.study.run_dir)!r}")
        return load(path, self.spec).eval()

    def export(
        self,
        folder: str | Path,
        format: ExportFormat = "timm",
        *,
        heads: Sequence[str] = (),
        img_size: int | None = None,
        precision: Precision = "fp32",
        overwrite: bool = False,
    ) -> Path:
        """Write the model with a model card as a folder that works without the study, and return the folder.

        The written model is opened and compared with the original one. An existing folder is replaced only if it is an
        export to which no files were added.

        Args:
            folder: Folder to write.
            format: "timm" (``timm.create_model("local-dir:FOLDER", pretrained=True)``), "hf" (transformers, with the
                interface of RADIO's models), "onnx" or "torchscript".
            heads: Teachers whose adaptor heads are exported too, or ["all"].
            img_size: Side in px of the images that a graph ("onnx", "torchscript") is traced with; None: that of the
                distillation.
            precision: "fp32", "fp16" or "bf16": types of input, weights and outputs of an ONNX graph.
            overwrite: Replace any other folder too, and delete its content.

        Raises:
            ConfigError: There is no such format or precision, or the format does not take it or `img_size`.
            StoreError: The study cannot be read.
            ExportError: The folder must not be replaced, the weights are missing or damaged, a package is missing, or
                the written model computes something else.
        """
        from nas.export.arguments import ExportSettings
        from nas.export.command import export_model

        out, heads = Path(folder), (heads,) if isinstance(heads, str) else tuple(heads)
        settings = ExportSettings(
            self.study.run_dir,
            format,
            str(self.number),
            out=out,
            img_size=img_size,
            precision=precision,
            heads=heads,
            overwrite=overwrite,
        )
        more = f", heads={list(heads)!r}" if heads else ""
        more += f", img_size={img_size}" if img_size is not None else ""
        more += f", precision={precision!r}" if precision != "fp32" else ""
        call = f"load_study({self.study.run_dir.name!r}).model({self.number}).export({out.name!r}, {format!r}{more})"
        export_model(settings, f"nas.api.{call}")
        return out

    def __repr__(self) -> str:
        m = self.measurement
        costs = "" if self.params is None else f", {self.params / 1e6:.2f} M parameters"
        costs += "" if self.macs is None else f", {self.macs / 1e9:.3f} GMACs"
        return (
            f"<Model {self.name} ({self.arch_id}): score {fixed(self.score, 3)}, {m.throughput_img_s:.0f} img/s"
            f" ({m.ratio:.2f}x {m.reference}), {m.latency_ms:.2f} ms{costs}; {outline(self.spec)}>"
        )
