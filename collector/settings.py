"""Every limit and default of collector, with its unit and the source of the choice."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- outputs -------------------------------------------------------------------------------------
MEMORY_THRESHOLD_BYTES: Final = 5 * MIB
"""An output of this many bytes or more lies in a file; design 3.1."""

MEMORY_BUDGET_BYTES: Final = 256 * MIB
"""Bytes of all outputs of a Collector that may be in memory at once; design 3.3."""

TEMP_FILE_BASE_NAME: Final = "streaming-output"
READ_BLOCK_BYTES: Final = MIB
"""Largest block that iterating over an output, copying or hashing it holds at once."""

# -- chunk queue ---------------------------------------------------------------------------------
SLOT_BYTES: Final = 256 * KIB
SLOT_COUNT: Final = 4
"""4 x 256 KiB reached 7.2 GB/s, 8 x 128 KiB 6.2, 4 x 1 MiB 7.1 (docs/decisions/0002)."""

JOIN_BYTES: Final = 64 * KIB
"""Small chunks travel joined to about this size; 256 KiB was no faster (0002)."""

DIRECT_BYTES: Final = 16 * KIB
"""A chunk of at least this size is copied into a slot at once, without joining."""

FLUSH_DEADLINE_S: Final = 0.03
"""No chunk waits longer than this in a worker while its job computes; design 2.1 allows 50 ms, of
which a follower had too little left for its 100 on a busy machine."""

INLINE_BYTES: Final = 3 * KIB
"""Payloads up to this size travel behind their header; with it they stay under PIPE_BUF (4 KiB)."""

PIPE_PAYLOAD_BYTES: Final = 64 * KIB
"""Largest payload behind one header where no shared slots can be had."""

# -- processes -----------------------------------------------------------------------------------
JOBS_AHEAD: Final = 256
"""At most so many jobs are at a worker at once, the running one included, while jobs are brisk
(0009)."""

AHEAD_S: Final = 0.01
"""... and no more than are over in this time: as long as a thread of the user's can keep the
supervising one waiting, twice `sys.getswitchinterval()`."""

PORTIONS: Final = 4
"""A worker that has so many gets the next ones in portions of this part of them ..."""

PORTION_BYTES: Final = 8 * KIB
"""... written as soon as there is so much to write: it works on one while the next is made."""

BRISK_S: Final = 0.002
"""Jobs that take less on average are brisk: the way to the worker and back counts."""

PACE_WEIGHT: Final = 0.2
"""How much the last job counts in that average."""

RECALL_AFTER_S: Final = 0.02
"""After so long behind a running job, the ones that wait go to a worker that is idle."""

SPARE_OTHERS_S: Final = 0.5
"""So long a worker that is to be killed with its job has to hand back the jobs behind it."""

PROGRESS_INTERVAL_S: Final = 0.1
"""A job's progress is reported at most once in this time; design 3.3."""

ANNOUNCE_AFTER_S: Final = 0.005
"""The parent hears of a start only if the job is not over by then: a message less for tiny jobs."""

FOLLOW_INTERVAL_S: Final = 0.01
"""As above for a job that somebody follows: with the flush deadline a chunk is seen after at most
45 ms (`python -m bench --case follow`)."""

SINK_DEATHS_LIMIT: Final = 5
"""So many deaths of the sink with no job finished in between break the Collector; design 5."""

WORKER_START_DEATHS_LIMIT: Final = 10
"""So many workers in a row that die before their first message break the Collector; so do as many
starts that fail while there is no worker at all."""

START_AGAIN_S: Final = 0.05
"""When no process was to be had, the next is tried after this time."""

REPORT_BACKLOG_BYTES: Final = 8 * MIB
"""While more than this waits for the parent to read, the sink reads no worker."""

EXIT_CODE_WAIT_S: Final = 1.0
"""How long the forkserver may take to tell the exit code of a child that is dead."""

WORKERS_GONE_S: Final = 1.0
"""How long the sink, left alone, waits for killed workers, and for the parent's locks, before it
leaves."""

JUST_DIED_S: Final = 2.0
"""A worker that died so shortly before its parent may have left processes of its group."""

STOP_DEADLINE_S: Final = 5.0
"""How long shutdown waits for idle processes to leave before it kills them."""

RECORD_CHARS: Final = 8 * KIB
"""A job's log record is cut to so many characters of text and of traceback."""

RECORDS_WAITING: Final = 10_000
"""Most log records of jobs that wait for the parent's handlers; more are dropped and counted."""

LOG_TAIL_BYTES: Final = 2 * KIB
"""So much of the end of a job's log is shown in the message of its failure."""

SUSPENDED_S: Final = 2.0
"""A wait that took so much longer than asked was a stopped process or machine, not a slow job."""

TRACEBACK_CHARS: Final = 64 * KIB
"""A remote exception's text and traceback are cut to this length (the middle goes)."""

# -- progress ------------------------------------------------------------------------------------
DRAW_INTERVAL_S: Final = 0.2
"""A picture of the bars stands so long; with 0.1 s, as tqdm has it, they cost 1 % of the throughput
of two busy cores (docs/decisions/0008)."""

LOG_INTERVAL_S: Final = 10.0
"""Where nothing is drawn, a batch has one line in the log in this time."""

DRAW_PATIENCE_S: Final = 1.0
"""How long the end of a batch waits for its last line: a terminal can be stopped (Ctrl-S)."""

TERMINAL_COLUMNS: Final = 80
"""Width of a terminal that reports none."""

RATE_WINDOW_S: Final = 3.0
"""The rate on a bar is that of so many seconds."""

REPORT_PATIENCE_S: Final = 5.0
"""How long shutdown waits for one call of a callback of the user's before it leaves it behind."""

REPORT_BACKLOG: Final = 10_000
"""So many calls are kept for a callback that does not return; about 20 MiB."""

# -- integrations --------------------------------------------------------------------------------
GEMINI_INLINE_BYTES: Final = 15 * MIB
"""A media file up to this size travels inside the request, 20 MiB as base64: what the service took
for years, before it raised its limit to 100 MB for some types."""

GEMINI_FILE_BYTES: Final = 2048 * MIB
"""Largest file that the service's Files API takes; from its documentation."""

GEMINI_SILENCE_S: Final = 600.0
"""A connection to the service that says nothing for so long is given up; the SDK has no limit."""

GEMINI_RETRY_S: Final = 1.0
GEMINI_RETRY_LONGEST_S: Final = 60.0
"""Wait before a request is sent again: doubled each time, as the SDK does, up to the longest."""

GEMINI_POLL_S: Final = 0.5
GEMINI_POLL_LONGEST_S: Final = 10.0
"""Wait between two looks at an uploaded file: half as long again each time, up to the longest."""

# -- run directories -----------------------------------------------------------------------------
VERSION: Final = "0.1.0"
"""Version of collector, written into owner.json; the same as in pyproject.toml."""

RUN_NAME_TRIES: Final = 100
"""So many times may sweepers take a run directory away between its making and its lock."""

DISPOSE_TRIES: Final = 4
DISPOSE_PAUSE_S: Final = 0.002
"""How often a run directory that is held by another process is tried again when it is disposed of:
`collector ls` holds each one for a few microseconds."""
