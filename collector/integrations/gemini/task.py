"""Send one media file with a prompt to a Gemini model and collect the answer while it comes.

Runs in:    a worker (`collector.collect(partial(run_gemini_media_task, prompt=...), videos)`), or
            any process.
States:     reading | uploading -> processing, then generating -> streaming -> finalizing -> done;
            from each of them failed, truncated or cancelled
"""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from collector import current_job
from collector.checks import text, whole
from collector.errors import ClosedError, CollectorError, RetryLater
from collector.integrations.gemini.answer import Answer, AnswerWriter, Question, ask
from collector.integrations.gemini.media import Media, check_media
from collector.integrations.gemini.requests import GeminiRequests
from collector.integrations.gemini.service import GeminiService, MediaReader
from collector.integrations.gemini.status import GeminiStatus, StatusReporter
from collector.settings import GEMINI_INLINE_BYTES
from collector.store.output.output import Output
from collector.store.rundir.directory import process_run_directory
from collector.store.spill import Sealed, SpillManager

if TYPE_CHECKING:
    from google import genai
    from google.genai import types

    from collector import CurrentJob


_paid: "Final[WeakSet[CurrentJob]]" = WeakSet()
"""Jobs that would pay once more for an answer if they were run later, and so began anew."""


@dataclass(slots=True)
class GeminiResult:
    """A whole answer.

    Attributes:
        model: The model that was asked.
        finish_reason: Why the model stopped: "STOP".
        usage: What the service counted (`total_token_count`, ...), by its own names, for the
            attempt that gave this answer; the sum, if that came in several parts.
        file_path: The media file.
        remote_file: Name of the uploaded file if it was to be kept (`delete_remote=False`).
    """

    model: str
    finish_reason: str
    usage: dict[str, Any]
    file_path: str
    remote_file: str | None = None
    _output: Output | None = field(default=None, repr=False, compare=False)
    _manager: SpillManager | None = field(default=None, repr=False, compare=False)

    @property
    def output(self) -> Output | None:
        """The answer; None inside a job, whose `output()` it is.

        A manager that the caller gave is finalized by the first look at this; until then it can be
        handed on as it is. A result goes to another process once its answer is in other hands: the
        manager finalized, or this output closed.
        """
        if self._output is None and self._manager is not None:
            self._output = self._manager.finalize()
        return self._output

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # What still has the answer refuses to be pickled.
        output = None if self._output is None or _is_closed(self._output) else self._output
        manager = None if self._manager is None or self._manager.closed else self._manager
        told = (self.model, self.finish_reason, self.usage, self.file_path, self.remote_file)
        return type(self), (*told, output, manager)


def run_gemini_media_task(  # noqa: PLR0913 - one keyword for each thing that a user may want
    file_path: str | os.PathLike[str],
    *,
    prompt: str,
    model: str = "gemini-3.8-flash",
    use_streaming: bool = True,
    on_status: Callable[[GeminiStatus], object] | None = None,
    client: "genai.Client | None" = None,
    manager: SpillManager | None = None,
    inline_limit: int = GEMINI_INLINE_BYTES,
    processing_timeout: float = 600.0,
    delete_remote: bool = True,
    attempts: int = 3,
    config: "types.GenerateContentConfig | Mapping[str, Any] | None" = None,
) -> GeminiResult:
    """Ask a Gemini model about a media file and collect its answer while it comes.

    Inside a job the answer is the job's output. Elsewhere it goes into `manager`, or into a
    `SpillManager` of the task's own; the result then has it as `output`.

    Args:
        file_path: Audio, video, image, text or PDF, of at most 2 GiB.
        prompt: What to do with it.
        model: Name of the model.
        use_streaming: False asks for the answer in one piece, which is then held in memory whole.
        on_status: Called with each `GeminiStatus`, at most ten times a second while bytes move. If
            it raises, that is logged once and hurts nothing.
        client: A client of google-genai; by default one is made from the environment
            (`GEMINI_API_KEY`) and closed at the end. One that you give waits for a silent service
            without end, unless its `http_options` have a `timeout`.
        manager: Where to write, also inside a job. It stays open until `result.output` is looked
            at, so that `finalize_processing` can take it.
        inline_limit: Bytes; a larger file goes through the Files API, in pieces of 8 MiB.
        processing_timeout: Seconds that the service may take to process an uploaded file.
        delete_remote: False leaves the uploaded file to the service, which keeps it for 48 hours.
        attempts: How often each request is sent at most: again if the service is busy (408, 429,
            5xx), or if the connection is lost before the first byte of the answer. A service that
            is silent for ten minutes is asked again only with streaming. In a job a 429 uses up
            no attempt, but for the eleventh in a row that names no time to wait.
        config: Further settings of the request, as google-genai has them.

    Raises:
        GeminiError: One subclass for each cause. What had come is in its `output`, in `manager`, or
            in the output of the job.
        RetryLater: In a job: the service wants a pause (429). The job runs later,
            and so are all `with_options(resource=model)`; none of its retries is used up. A task
            that has a manager, or has uploaded its file, or whose job has paid for an answer
            before, waits by itself instead.
        SpillError: The answer could not be written.
        OSError: The file cannot be read.
            Outside a job, and without `manager`, each exception has what had come as `output`.

    Guarantees:
        The uploaded file is deleted, also after an error, Ctrl-C and `kill -9`; what nobody could
        delete, for the machine went down, the service forgets after 48 hours. The API key is in no
        message, log or error. In a job the tokens are counted, of failed attempts and requests too:
        the meters `tokens`, `input_tokens`, `output_tokens`; of a job that is killed what the
        service had told by then. Memory stays flat over an answer of any length.
    """
    attempts, prompt = whole("attempts", attempts, least=1), text("prompt", prompt)
    job = _job()
    sink, own = _choose_sink(manager, job)
    reporter = StatusReporter(on_status)
    answer = Answer(sink, reporter, _count)
    outside = sys.exception()
    try:
        media = check_media(file_path)
        requests = GeminiRequests(
            client,
            file_path=media.path,
            attempts=attempts,
            on_retry=reporter.retrying,
            patient=job is not None,
        )
        with GeminiService(requests, delete_remote=delete_remote) as service:
            settings = _settings(config)  # refused, if at all, before anything is sent
            requests.keep_secret(settings.http_options)
            if sink is job and job not in _paid and media.size <= inline_limit:
                requests.resource = model  # nothing is to be uploaded or paid for once more
            part = _media_part(service, reporter, media, inline_limit, processing_timeout)
            reporter.report("generating", 0)
            ask(service, _question(model, part, prompt, settings, use_streaming), answer)
            _note_payment()
            reporter.report("finalizing", answer.written_bytes, answer.written_bytes)
        output = own.finalize() if own is not None else None
    except BaseException as error:
        _keep_what_came(own, error)
        if not isinstance(error, RetryLater):
            reporter.ended(error, answer.written_bytes)
        # Variables in the frames below hold the key, and reports of errors may show them.
        _take_frames_from(error, outside)
        raise
    reporter.report("done", answer.written_bytes, answer.written_bytes)
    remote_file = None if delete_remote else service.remote_file
    return GeminiResult(
        model, answer.finish_reason, answer.usage, media.path, remote_file, output, manager
    )


def _count(tokens: Mapping[str, int]) -> None:
    """Add tokens to the meters of the job, if this is one."""
    job = _note_payment()
    if job is not None:
        with contextlib.suppress(ClosedError):  # it is over
            job.count(**tokens)


def _note_payment() -> "CurrentJob | None":
    """Note that an answer of the job has been paid for, if this is a job; return that."""
    job = _job()
    if job is not None:
        _paid.add(job)
    return job


def _job() -> "CurrentJob | None":
    """Return the job that this is, if it is one."""
    try:
        return current_job()
    except RuntimeError:
        return None


def _choose_sink(
    manager: SpillManager | None, job: "CurrentJob | None"
) -> tuple[AnswerWriter, SpillManager | None]:
    """Choose where to write: the second is the manager that is ours to finalize."""
    if manager is not None:
        manager.write_joined(b"", 0)  # one that takes no more says so before anything is sent
        return manager, None
    if job is not None:
        return job, None
    own = SpillManager()
    return own, own


def _media_part(
    service: GeminiService,
    reporter: StatusReporter,
    media: Media,
    inline_limit: int,
    processing_timeout: float,
) -> "types.Part":
    """Make the file a part of the request: its bytes, or the address of the uploaded file."""
    from google.genai import types

    if media.size <= inline_limit:
        reporter.report("reading", 0, media.size)
        with MediaReader(
            media.path, media.size, lambda read: reporter.report("reading", read, media.size)
        ) as file:
            data = file.read()
        return types.Part.from_bytes(data=data, mime_type=media.mime_type)

    reporter.report("uploading", 0, media.size)
    remote = service.upload(
        media.size, media.mime_type, lambda sent: reporter.report("uploading", sent, media.size)
    )
    remote = service.wait_until_active(
        remote,
        processing_timeout,
        lambda state: reporter.report("processing", media.size, media.size, state),
    )
    return types.Part.from_uri(file_uri=str(remote.uri), mime_type=media.mime_type)


def _settings(
    config: "types.GenerateContentConfig | Mapping[str, Any] | None",
) -> "types.GenerateContentConfig":
    from google.genai import types

    if isinstance(config, types.GenerateContentConfig):
        return config
    return types.GenerateContentConfig.model_validate(dict(config or {}))


def _question(
    model: str,
    part: "types.Part",
    prompt: str,
    config: "types.GenerateContentConfig",
    streaming: bool,
) -> Question:
    from google.genai import types

    return Question(model, [part, types.Part.from_text(text=prompt)], config, streaming)


def _is_closed(output: Output) -> bool:
    try:
        output.open().close()
    except ClosedError:
        return True
    except (CollectorError, OSError):  # it is not, and its file is gone
        return False
    return False


def _keep_what_came(own: SpillManager | None, error: BaseException) -> None:
    """Hand what the manager of our own has over to the error, if it is one that can be caught."""
    if own is None:
        return
    with own:
        if isinstance(error, Exception):
            # The disk refuses that, too, or the error takes no attribute: it is raised as it is.
            with contextlib.suppress(CollectorError, OSError, AttributeError):
                error.output = _incomplete_output(own.seal())  # type: ignore[attr-defined]


def _take_frames_from(error: BaseException, outside: BaseException | None) -> None:
    """Take the frames out of an error and those that it came of, but for one of the caller's."""
    chain, found = [error], {id(error), id(outside)}
    for link in chain:
        link.__traceback__ = None
        for other in (link.__cause__, link.__context__):
            if other is not None and id(other) not in found:
                found.add(id(other))
                chain.append(other)


def _incomplete_output(sealed: Sealed) -> Output:
    if sealed.data is not None:
        return Output.in_memory(sealed.data, chunks=sealed.chunks, complete=False)
    assert sealed.name is not None
    return Output.on_disk(
        process_run_directory(),
        sealed.name,
        size=sealed.size,
        chunks=sealed.chunks,
        complete=False,
    )
