"""Where the chaos takes place: a Label Studio, a bad network before it, a backend, and somebody who labels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
from pydantic import SecretStr

from al_backend.connect import connect
from al_backend.demo.backend import RunningBackend
from al_backend.demo.sample import label_config
from al_backend.demo.server import LabelStudioServer
from al_backend.errors import BackendError
from al_backend.jobs.embedded_redis import running_url
from al_backend.jobs.queues import connect_to
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Registry
from model.data.reef import SPECIES, write_reef
from tests.al_backend.faults.field import LABELLED, fast_settings, regions
from tests.chaos.annotator import Annotator
from tests.chaos.plan import Fault, Flush, Kill, Spell, Victim
from tests.chaos.proxy import FaultyProxy

SCENES = 100
AT_FIRST = 40
_SIZE = (96, 96)
_UP_WITHIN = 90.0
_VICTIM_WITHIN = 8.0

_COMMAND = {
    Victim.WEB: "al_backend.http.serve",
    Victim.WEB_CHILD: "al_backend.http.serve",
    Victim.INFERENCE: "predict,score",
    Victim.CYCLE: "al_backend.jobs.workers reconcile",
    Victim.PUBLISH: "al_backend.jobs.workers publish",
    Victim.TRAIN: "al_backend.jobs.workers train",
    Victim.TRAINING: "al_backend.jobs.workers train",
    Victim.REDIS: "redis-server",
}


class Log:
    """What happened when, as a time line."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lines: list[str] = []

    def __call__(self, text: str) -> None:
        self._lines.append(f"{time.monotonic() - self._started:7.2f} s  {text}")

    def __str__(self) -> str:
        return "\n".join(self._lines)


class Stage:
    """Everything runs for as long as the `with` block.

    Args:
        program: the `label-studio` executable.
        template: folder of the migrated empty database.
        folder: for all files of everybody.
        seed: of the annotator and of the proxy's draws.
    """

    def __init__(self, program: Path, template: Path, folder: Path, seed: int) -> None:
        self.log = Log()
        self.killed: set[Victim] = set()
        self.folder = folder
        self._seed = seed
        self._open = ExitStack()
        self.label_studio = LabelStudioServer(program, folder / "label-studio", template_dir=template)
        self.images = write_reef(folder / "scenes", SCENES, seed=3, size=_SIZE, species=SPECIES).images

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            stack.enter_context(self.label_studio)
            self.proxy = stack.enter_context(FaultyProxy(self.label_studio.url, seed=self._seed))
            self.settings = fast_settings(self.label_studio, self.folder).model_copy(
                update={
                    "label_studio_url": self.proxy.url,
                    "label_studio_api_key": SecretStr(self._personal_access_token()),
                    "reconcile_every": 1.0,
                    "gate_drop": 1.0,  # after three steps a version is as good as chance makes it
                    # So low that a detector that has hardly learnt has boxes to rank by.
                    "measure_threshold": 0.002,
                    "score_threshold": 0.01,
                    "publish_chunk": 12,
                    "publish_pause": 0.05,
                }
            )
            self.backend = RunningBackend(self.settings, self.folder / "backend.log")
            stack.callback(self.backend.stop)
            self.backend.start()
            self.client = LabelStudio(self.label_studio.url, self.label_studio.token)
            stack.callback(self.client.close)
            self.registry = Registry(self.settings.model_dir)
            self.project = self._create_project()
            self.annotator = Annotator(
                self.label_studio.url,
                self.label_studio.token,
                self.project,
                self.images,
                self.truth,
                seed=self._seed,
                note=self.log,
            )
            self.annotator.start()
            stack.callback(self.annotator.stop)
            self._open = stack.pop_all()
        self.log(f"everything runs; project {self.project}")
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def suffer(self, faults: Iterable[Fault], count: int) -> int:
        """Let `count` of the faults happen; those that find nothing to break do not count.

        Returns:
            How many happened.
        """
        happened = 0
        for fault in faults:
            if happened >= count:
                break
            time.sleep(fault.pause)
            if self._inflict(fault):
                happened += 1
                if isinstance(fault, Kill):
                    self.killed.add(fault.victim)
                self.log(f"fault {happened}: {fault}")
                self._look_after(fault)
            else:
                self.log(f"there was nothing to {fault}")
        return happened

    def become_quiet(self) -> None:
        """Nothing breaks and nobody labels any more; what a service manager starts is started."""
        self.annotator.stop()
        self.proxy.calm()
        if not self.label_studio.running:
            self.label_studio.start()
        if self.backend.pid is None:
            self._start_backend()
        troubled = ", ".join(f"{count} {trouble.name}" for trouble, count in self.proxy.troubled.items())
        annotator = self.annotator
        self.log(f"quiet; {annotator.submitted} annotations, {annotator.failed} attempts failed; troubled: {troubled}")

    def processes(self) -> list[psutil.Process]:
        """Everything that was ever started for this backend and still lives, by the environment that it was given."""
        mine = str(self.settings.data_dir)
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get("AL_DATA_DIR") == mine or mine in " ".join(process.cmdline())
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def _inflict(self, fault: Fault) -> bool:
        if isinstance(fault, Spell):
            self.proxy.trouble(fault.trouble, share=fault.share, seconds=fault.seconds)
            return True
        if isinstance(fault, Flush):
            url = running_url(self.settings.data_dir)
            return url is not None and bool(connect_to(url).connection.flushall())
        if fault.victim is Victim.LABEL_STUDIO:
            self.label_studio.kill()
            return True
        if fault.victim is Victim.BACKEND:
            self.backend.kill()
            return True
        deadline = time.monotonic() + _VICTIM_WITHIN
        while time.monotonic() < deadline:
            for process in self._victims(fault.victim):
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
                return True
            time.sleep(0.05)
        return False

    def _victims(self, victim: Victim) -> Iterator[psutil.Process]:
        """Living processes of that kind, below `al-backend up`."""
        if self.backend.pid is None:
            return
        try:
            children = psutil.Process(self.backend.pid).children()
            matching = [child for child in children if _COMMAND[victim] in " ".join(child.cmdline())]
            if victim in (Victim.TRAINING, Victim.WEB_CHILD):
                matching = [grandchild for child in matching for grandchild in child.children()]
        except psutil.NoSuchProcess:
            return
        yield from matching

    def _look_after(self, fault: Fault) -> None:
        """What the supervisor does not do: a service manager starts `al-backend up` and Label Studio again."""
        if not isinstance(fault, Kill):
            return
        if fault.victim is Victim.LABEL_STUDIO:
            time.sleep(fault.down)
            self.label_studio.start()
            self.log("Label Studio answers again")
        elif fault.victim is Victim.BACKEND:
            time.sleep(fault.down)
            self._start_backend()

    def _start_backend(self) -> None:
        deadline = time.monotonic() + _UP_WITHIN
        while True:
            try:
                self.backend.start()
                self.log("al-backend up runs again")
                return
            except BackendError as error:
                if time.monotonic() > deadline:
                    raise
                self.log(f"al-backend up did not start: {str(error).strip().splitlines()[-1][:160]}")
                time.sleep(1.0)

    def _create_project(self) -> int:
        client = self.client
        project = client.create_project("Chaos", label_config(SPECIES)).id
        ids = client.upload_images(project, [image.path for image in self.images[:AT_FIRST]])
        self.truth = dict(zip(ids, self.images, strict=False))
        for task in ids[:LABELLED]:
            client.submit_annotation(task, regions(self.truth[task]))
        self.tab = connect(self.settings, client, self.registry, project, queues=self.backend.queues).tab
        return project

    def _personal_access_token(self) -> str:
        headers = {"Authorization": f"Token {self.label_studio.token}"}
        url = self.label_studio.url
        body = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        httpx.post(f"{url}/api/jwt/settings", json=body, headers=headers).raise_for_status()
        answer = httpx.post(f"{url}/api/token/", headers=headers)
        answer.raise_for_status()
        return str(answer.json()["token"])
