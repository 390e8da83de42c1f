"""A candidate is asked what others are asked, by real models, and what differs is counted."""

import asyncio
import json
import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llava_ultra.testing import tiny_artifact
from sonoray.records.comparison_table import Comparison, tables
from sonoray.records.database import open_database
from sonoray.tracking.registry import manifest_digest
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.testing import chat_body, random_study
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import Batching, HostedModel, Limits, Roster, ShadowConfig
from sonoray_serve.shadow.candidate import OUTCOMES, Shadow
from sonoray_serve.shadow.comparisons import Comparisons


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    tiny_artifact(root / "served", lively=True)
    tiny_artifact(root / "other", lively=True, seed=1)
    shutil.copytree(root / "served", root / "equal")
    manifest = root / "equal" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["provenance"]["run"] = "another"
    manifest.write_text(json.dumps(values))
    return {path.name: path for path in root.iterdir()}


class Service:
    """A chat with its replicas, and what its shadow records."""

    def __init__(self, folders: dict[str, Path], **settings: Any) -> None:
        source = ModelSource(model=str(folders["served"]), digest="", workspace="", device="cpu")
        self.digests = {name: manifest_digest(path) for name, path in folders.items()}
        self.vision = Vision(source, num_threads=1, weights_check_period_s=300, image_bytes=0)
        self.engine = Engine(source, Batching(max_answers=4), max_models=3)
        self.roster = Roster(
            models=tuple(
                HostedModel(model=str(path), digest=self.digests[name])
                for name, path in folders.items()
            )
        ).model_dump()
        self.told: list[Comparison] = []
        self.shadow = Shadow(
            vision=self.vision,
            engine=self.engine,
            settings=ShadowConfig(name="next", **settings),
            record=self.told.append,
            timeout_s=60,
        )
        self.chat = Chat(
            vision=self.vision, engine=self.engine, models={}, limits=Limits(), shadow=self.shadow
        )

    async def start(self, candidate: str) -> None:
        await self.engine.reconfigure(self.roster)
        await self.vision.reconfigure(self.roster)
        cards = await self.engine.cards()
        self.chat.offer({"llava-ultra": cards[self.digests["served"]]})
        self.shadow.offer(cards[self.digests[candidate]])

    async def ask(self, **extra: Any) -> Any:
        async def body() -> bytes:
            return json.dumps(chat_body(random_study(2), **extra)).encode()

        answer = await self.chat.begin(body(), Deadline.after(60))
        return answer


def run(folders: dict[str, Path], candidate: str, *bodies: dict[str, Any]) -> tuple[Service, Any]:
    service = Service(folders)

    async def go() -> list[Any]:
        await service.start(candidate)
        answers = []
        for extra in bodies:
            answer = await service.ask(**extra)
            answers.append(await answer.complete())
            await service.shadow.settle()
        return answers

    return service, asyncio.run(go())


OPTIONS = {"sonoray": {"options": ["良性", "恶性"]}}


def test_what_differs_is_counted_and_no_text_of_it_is_kept(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    service, answers = run(folders, "other", {}, OPTIONS)
    assert service.shadow.counts.total() == 2
    first, second = service.told
    assert (first.is_closed, second.is_closed) == (False, True)
    assert first.answer_id == answers[0].id
    assert first.served_digest == service.digests["served"]
    assert first.candidate_digest == service.digests["other"]
    assert not first.same_text
    assert first.served_text != first.candidate_text
    assert first.served_tokens == answers[0].usage.completion_tokens
    text = answers[0].choices[0].message.content
    assert text
    assert text not in str([asdict(each) for each in service.told]) + caplog.text


def test_a_model_of_the_same_weights_says_the_same(folders: dict[str, Path]):
    service, _ = run(folders, "equal", {}, OPTIONS)
    assert service.shadow.counts["same"] == 2
    for each in service.told:
        assert each.same_text
        assert each.same_images
        assert each.served_text == each.candidate_text
    assert service.told[0].served_tokens == service.told[0].candidate_tokens


def test_a_request_without_a_place_is_counted_and_answered(folders: dict[str, Path]):
    service = Service(folders)

    async def go() -> None:
        await service.start("other")
        first = await service.ask()  # its copy waits for its end
        second = await service.ask()
        await second.complete()
        assert service.shadow.counts["dropped"] == 1
        await first.complete()
        await service.shadow.settle()
        third = await service.ask()
        await third.complete()
        await service.shadow.settle()

    asyncio.run(go())
    assert len(service.told) == 2
    assert service.shadow.counts["dropped"] == 1


def test_whoever_leaves_gives_the_copy_s_place_back(folders: dict[str, Path]):
    service = Service(folders)

    async def go() -> None:
        await service.start("other")
        gone = await service.ask(stream=True)
        await gone.events.aclose()
        stayed = await service.ask()
        await stayed.complete()
        await service.shadow.settle()

    asyncio.run(go())
    assert len(service.told) == 1
    assert set(service.shadow.counts) == set(OUTCOMES)
    assert service.shadow.counts["dropped"] == 0


def test_a_candidate_that_is_not_there_costs_nobody_an_answer(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
):
    service = Service(folders)

    async def go() -> None:
        await service.start("other")
        cards = await service.engine.cards()
        lost = replace(cards[service.digests["other"]], digest="0" * 64)
        service.shadow.offer(lost)
        for _ in range(2):
            answer = await service.ask()
            assert (await answer.complete()).choices[0].message.content
            await service.shadow.settle()

    asyncio.run(go())
    assert service.shadow.counts["failed"] == 2
    assert "a copy for the candidate failed" in caplog.text


def test_a_share_of_the_requests_is_copied(folders: dict[str, Path]):
    service = Service(folders, share=0.25, max_waiting=64)

    async def go() -> int:
        await service.start("other")
        card = (await service.engine.cards())[service.digests["served"]]
        copies = [service.shadow.copy(card) for _ in range(400)]
        taken = [copy for copy in copies if copy]
        for copy in taken:
            copy.drop()
        return len(taken) + service.shadow.counts["dropped"]

    assert 60 <= asyncio.run(go()) <= 140


def test_comparisons_go_into_the_table_and_a_table_that_is_gone_is_said(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    from sqlalchemy import select

    service, _ = run(folders, "equal", {})
    path = tmp_path / "feedback.db"
    Comparisons(str(path)).add(service.told[0])
    with open_database(str(path), tables()[0]).connect() as connection:
        (row,) = connection.execute(select(tables()[1])).all()
    assert row.answer_id == service.told[0].answer_id
    assert row.same_text is True
    Comparisons(str(tmp_path / "no" / "folder.db")).add(service.told[0])
    assert "could not be kept" in caplog.text
    Comparisons("").add(service.told[0])
