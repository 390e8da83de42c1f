"""Which models a running service has: they come, go and change places without a restart.

Two things are looked at every few seconds: the file of adapters (`sonoray serve --adapters`), and
the alias, or the link, by which the first model was named. A change is made in two steps, so that
no request fails: first the replicas read what is new, beside what they have; then the names move.
Between them each new model answers the golden questions through the very replicas that will serve
it, and its answers are held to those of the same model loaded here. What has lost its name stays
for as long as a request may take, and then leaves.

What is refused is said in one line and changes nothing; it is tried again when something changes.
"""

import logging
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from sonoray.errors import CheckpointError, ConfigError, ServingError, SonoError
from sonoray.workspace import Workspace
from sonoray_jobs.service.golden import Found, answer_golden
from sonoray_serve.app import AppArgs
from sonoray_serve.settings import HostedModel, Roster

logger = logging.getLogger(__name__)

LOOK_PERIOD_S = 5.0
"""How often file and alias are looked at."""


def read_adapters(path: Path) -> dict[str, str]:
    """The models of a file, by the names that follow the first model's: `breast = "models:/..."`.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"adapters file {str(path)!r} cannot be read ({error}); write lines as "
            'breast = "models:/NAME/VERSION"'
        ) from None
    if "student" in values:
        raise ConfigError(
            f"adapters file {str(path)!r}, 'student': this name means the student that a model was "
            "exported with; give the model another one"
        )
    for name, model in values.items():
        if not isinstance(model, str) or not name.isidentifier():
            raise ConfigError(
                f"adapters file {str(path)!r}, {name!r}: a name of letters, digits and _ stands "
                'for a model, as breast = "models:/NAME/VERSION"'
            )
    return values


def find_hosted(workspace: Workspace, model: str, first: Found) -> Found:
    """Find a model, check every digest of what it has of its own, and that it shares the rest.

    Raises:
        CheckpointError: it cannot be served beside the first one; says why.
        TrackingError: MLflow does not answer or does not know the model.
    """
    from llava_ultra.export.hosted import check_hosted
    from sonoray.tracking.registry import manifest_digest
    from sonoray_serve.replicas.loading import resolve_folder

    folder = resolve_folder(model, workspace.root)
    try:
        check_hosted(folder, first.folder)
    except ValueError as error:
        raise CheckpointError(f"model {model!r} is refused: {error}") from None
    return Found(folder=folder, digest=manifest_digest(folder))


class RosterKeeper:
    """Keeps a running service at the models that file and alias name."""

    def __init__(
        self,
        args: AppArgs,
        *,
        workspace: Workspace,
        model: str,
        adapters: Path | None,
        deploy: Callable[[AppArgs], None],
        golden: Callable[[Found], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a service that has its first model alone.

        Args:
            args: what it was started with.
            workspace: where models are downloaded to.
            model: what the first model was named by.
            adapters: the file; None where there is none.
            deploy: hands new arguments to the running service, and returns once all replicas have
                taken them.
            golden: tries a model that the replicas have; raises `ServingError`.
            clock: in seconds.
        """
        self._args = args
        self._workspace = workspace
        self._model = model
        self._adapters = adapters
        self._deploy = deploy
        self._golden = golden or answer_golden
        self._clock = clock
        self._first = Found(folder=Path(args.model), digest=args.model_digest)
        self._names = {args.model_name: self._first}
        self._draining: dict[Found, float] = {}
        self._settled: object = None  # what was named when it was taken, or refused
        self._said = ""

    def look(self) -> None:
        """Bring the service to what is named now; never raises for what a person can mend."""
        try:
            named = self._named()
            if named != self._settled:
                self._settled = named
                self._change(self._find(named))
            self._let_go()
        except SonoError as error:
            if str(error) != self._said:  # not every few seconds
                logger.error("models stay as they are: %s", error)
            self._said = str(error)
        else:
            self._said = ""

    def _named(self) -> dict[str, str]:
        """The models by name, as they are written; an alias as the version that it names."""
        name = self._args.model_name
        named = {name: self._follow(self._model)}
        if self._adapters is not None:
            adapters = read_adapters(self._adapters)
            named |= {f"{name}:{key}": self._follow(model) for key, model in adapters.items()}
        return named

    def _follow(self, model: str) -> str:
        if not model.startswith("models:/"):
            return str(Path(model).expanduser().resolve())  # it may be a link that moves
        if "@" not in model:
            return model
        from sonoray.tracking.connection import open_store
        from sonoray.tracking.registry import find_version

        return find_version(open_store(self._workspace), model).uri

    def _find(self, named: Mapping[str, str]) -> dict[str, Found]:
        most = self._args.config.max_models
        if len(set(named.values())) > most:
            raise ConfigError(
                f"{len(set(named.values()))} models are named, and serve.max_models = {most}; "
                "raise it and start again, or name fewer"
            )
        return {
            name: find_hosted(self._workspace, model, self._first) for name, model in named.items()
        }

    def _change(self, wanted: Mapping[str, Found]) -> None:
        """Bring in what is new, try it, and move the names."""
        if wanted == self._names:
            return
        new = set(wanted.values()) - set(self._names.values())
        if new:
            self._hand_over(self._names, new)
            try:
                for found in sorted(new, key=lambda each: each.digest):
                    self._golden(found)
            except ServingError:
                self._hand_over(self._names, set())
                raise
        gone = set(self._names.values()) - set(wanted.values())
        until = self._clock() + self._args.config.limits.deadline_s
        self._draining |= dict.fromkeys(gone, until)
        for found in wanted.values():
            self._draining.pop(found, None)
        self._names = dict(wanted)
        self._hand_over(self._names, set())
        told = ", ".join(f"{name} is {found.digest[:12]}" for name, found in wanted.items())
        logger.info("serving %s", told)

    def _let_go(self) -> None:
        """Let go what lost its name longer ago than a request may take."""
        now = self._clock()
        over = [found for found, until in self._draining.items() if now >= until]
        for found in over:
            del self._draining[found]
        if over:
            self._hand_over(self._names, set())

    def _hand_over(self, names: Mapping[str, Found], new: set[Found]) -> None:
        models = {*names.values(), *new, *self._draining}
        roster = Roster(
            models=tuple(
                HostedModel(model=str(found.folder), digest=found.digest)
                for found in sorted(models, key=lambda each: each.digest)
            ),
            names={name: found.digest for name, found in names.items()},
        )
        # past max_models for as long as what has lost its name still answers
        self._deploy(self._args.model_copy(update={"roster": roster}))
