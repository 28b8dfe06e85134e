"""Every limit and default of collector, with its unit and the source of the choice."""

from typing import Final

VERSION: Final = "0.2.0"
"""Of collector: the build makes the package's metadata of this line; owner.json says it, too."""

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
"""Shared slots of one queue: 4 x 256 KiB moved 7.2 GB/s, 8 x 128 KiB 6.2, 4 x 1 MiB 7.1 (0002)."""

EXTENT_BYTES: Final = 4 * MIB
EXTENT_COUNT: Final = 4
"""Parts of a job's file that its worker may fill before the sink has heard of the first: with 2 it
waited for grants, with 8 it was no faster (0021)."""

TOGETHER_BYTES: Final = 512 * KIB
"""Write chunks to the job's file together, uncopied, to about this size: a large write takes large
pages (0021)."""

TOGETHER_CHUNKS: Final = 64
"""Join them first, if they are more."""

JOIN_BYTES: Final = 64 * KIB
"""Join small chunks to about this size before they are sent; 256 KiB was no faster (0002)."""

DIRECT_BYTES: Final = 16 * KIB
"""Copy a chunk of at least this size straight into a slot, without joining."""

FLUSH_DEADLINE_S: Final = 0.03
"""Longest time that a chunk stays in a worker while its job computes. The design allows 50 ms; with
that a follower on a busy machine missed its own goal of 100 ms."""

INLINE_BYTES: Final = 3 * KIB
"""Largest payload that is written together with its header: both stay under PIPE_BUF (4 KiB)."""

PIPE_PAYLOAD_BYTES: Final = 64 * KIB
"""Largest payload of one header on a system that has no shared slots."""

JOB_PIPE_BYTES: Final = MIB
"""What the pipe behind `current_job().fileno()` can hold, and the most that is read from it at
once; Linux lets every user have that much."""

# -- processes -----------------------------------------------------------------------------------
JOBS_AHEAD: Final = 256
"""Most jobs that a worker has at once, the running one included, while jobs are short (0009)."""

AHEAD_S: Final = 0.01
"""Queue at most this much work at a worker: 2 x sys.getswitchinterval(), the longest that a thread
of the user's can delay the supervising thread. Where less than two jobs are so much, none waits."""

PORTIONS: Final = 4
"""Refill a worker in batches of 1/PORTIONS of its target."""

PORTION_BYTES: Final = 8 * KIB
"""Flush a worker's job pipe once this many bytes are buffered, so that the worker starts while more
jobs are encoded."""

BRISK_S: Final = 0.002
"""Jobs that take longer than this on average are called back as soon as those that wait at a worker
would together need RECALL_AFTER_S."""

PACE_WEIGHT: Final = 0.2
"""Weight of the newest job in the moving average of the durations of jobs."""

RECALL_AFTER_S: Final = 0.02
"""Recall jobs that have waited this long behind a running one, when another worker is idle."""

SPARE_OTHERS_S: Final = 0.5
"""Time that a worker has, before it is killed with its job, to hand back the jobs behind that
one."""

GATES_UNTRIED: Final = 64
"""Most gates that are kept of resources whose pause is over and of which no job has come since: a
crawler has one for each host, and of most of them no job will come again."""

PROGRESS_INTERVAL_S: Final = 0.1
"""Shortest time between two progress reports of a job; design 3.3."""

ANNOUNCE_AFTER_S: Final = 0.005
"""Tell the parent of a start only if the job is not over by then: tiny jobs save a message."""

FOLLOW_INTERVAL_S: Final = 0.01
"""Shortest time between two progress reports of a job that is followed: with the flush deadline a
chunk is seen after at most 45 ms (`python -m bench --case follow`)."""

SINK_DEATHS_LIMIT: Final = 5
"""Deaths of the sink, with no job finished in between, that break the Collector; design 5."""

WORKER_START_DEATHS_LIMIT: Final = 10
"""Workers in a row that die before their first message, or starts that fail while there is no
worker at all, that break the Collector."""

START_AGAIN_S: Final = 0.05
"""Pause before the next try after the system refused a process."""

REPORT_BACKLOG_BYTES: Final = 8 * MIB
"""The sink reads no worker while more than this waits for the parent to read."""

PROOF_S: Final = 30.0
"""Longest time that another executable may take to show that it is the same Python."""

COMMAND_LINE_BYTES: Final = 4 * KIB
"""Longest command line that collector gives to a process."""

ANSWER_LOOK_S: Final = 0.02
"""Pause between two looks of a worker for the parent's answer where the run directory is now:
another thread of the worker may have read it."""

EXIT_CODE_WAIT_S: Final = 1.0
"""Longest wait for the end of a killed child: one that waits for a disk may outlive that."""

SERVER_TURN_S: Final = 10.0
"""Longest wait for the forkserver's word on the exit code of a dead child. It only has to get a
turn, which took more than a second on a machine with ten times as much to do as it can."""

WORKERS_GONE_S: Final = 5.0
"""Longest wait of a sink for workers that it has killed, and, if its parent is dead, for the locks
of that before it leaves. Under load a killed process was there for more than a second."""

PUMP_GONE_S: Final = 30.0
"""Longest wait of a sink whose parent is dead for a pump, which cancels what runs elsewhere and, if
it has started a Ray, ends that."""

JUST_DIED_S: Final = 2.0
"""A worker that died within this time before its parent may have left processes of its group: the
sink ends them."""

STOP_DEADLINE_S: Final = 5.0
"""Longest wait of shutdown for idle processes to leave, before it kills them."""

RECORD_CHARS: Final = 8 * KIB
"""Most characters of the text, and of the traceback, of a job's log record."""

RECORDS_WAITING: Final = 10_000
"""Most log records of jobs that wait for the parent's handlers; more are dropped and counted."""

RECORDS_WAITING_BYTES: Final = 16 * MIB
"""Most bytes of them; 10,000 short ones are half of that."""

LOG_TAIL_BYTES: Final = 2 * KIB
"""Bytes of the end of a job's log that the message of its failure shows."""

OOM_LOOK_PAUSE_S: Final = 1.0
"""How often, at most, it is read how many processes the kernel has killed for their memory."""

OOM_KILL_S: Final = 10.0
"""How long after that number has risen the death of a worker may be what was counted."""

SUSPENDED_S: Final = 2.0
"""A wait that took this much longer than asked: the process or the machine was stopped meanwhile,
and no job is blamed for that time."""

TRACEBACK_CHARS: Final = 64 * KIB
"""Most characters of a remote exception's text and traceback; the middle is cut out."""

# -- progress ------------------------------------------------------------------------------------
DRAW_INTERVAL_S: Final = 0.2
"""Time between two drawings of the bars; with 0.1 s, as tqdm has it, they cost 1 % of the
throughput of two busy cores (docs/decisions/0008)."""

LOG_INTERVAL_S: Final = 10.0
"""Time between two lines in the log of a batch for which nothing is drawn."""

DRAW_PATIENCE_S: Final = 1.0
"""Longest wait of the end of a batch for its last line: a terminal can be stopped (Ctrl-S)."""

TERMINAL_COLUMNS: Final = 80
"""Width that is assumed of a terminal that reports none."""

SLOW_S: Final = 60.0
"""A job that has run for so long is said to be slow; as nextest has it."""

QUIET_S: Final = 60.0
"""A running job from which no byte has come for so long is said to be quiet."""

ROWS_OF_JOBS: Final = 8
"""At most so many running jobs have a row on a terminal; as nextest has it."""

DIGEST_JOBS: Final = 10
"""At most so many jobs of a kind are told of at the end of a batch."""

ENDS_WAITING: Final = 100
"""So many lines about ends wait for the next picture of a batch; of further ones the number."""

RESOURCES_NAMED: Final = 3
"""Of so many resources that jobs wait for the name is shown; of further ones the number."""
DIGEST_LINES: Final = 5
"""So many last lines of its stderr are shown of each job that failed."""

NAME_CHARS: Final = 1000
"""A line shows no more of a name or a reason: an input may be a megabyte."""

RATE_WINDOW_S: Final = 3.0
"""Window over which the rate on a bar is measured."""

REPORT_PATIENCE_S: Final = 5.0
"""Longest wait of shutdown for one call of the user's callback, before it returns without it."""

REPORT_BACKLOG: Final = 10_000
"""Most calls that are kept for a callback that does not return; about 20 MiB."""

REPORT_AHEAD: Final = 1000
"""`collect` takes no further input while so many calls wait for a slow callback: each has a job."""

# -- integrations --------------------------------------------------------------------------------
PUBLISH_WAIT_S: Final = 5.0
"""Longest wait for others that publish into a directory: that takes them some milliseconds. Who
holds it for longer has a lock of his own there, and is not waited for."""

PUBLISH_LOOK_S: Final = 0.01
"""Wait between two looks whether they are done."""

GEMINI_INLINE_BYTES: Final = 15 * MIB
"""A media file up to this size travels inside the request, 20 MiB as base64: what the service took
for years, before it raised its limit to 100 MB for some types."""

GEMINI_FILE_BYTES: Final = 2048 * MIB
"""Largest file that the service's Files API takes; from its documentation."""

GEMINI_SILENCE_S: Final = 600.0
"""Longest silence of a connection to the service before it is given up; the SDK has no limit."""

GEMINI_DELETION_S: Final = 5.0
"""So long the service may take to delete an uploaded file, for the answer is there already; what it
has not done by then, a program of its own tries again."""

GEMINI_RETRY_S: Final = 1.0
GEMINI_RETRY_LONGEST_S: Final = 60.0
"""Wait before a request is sent again: doubled each time, as the SDK does, up to the longest."""

GEMINI_REFUSALS: Final = 10
"""So many refusals in a row that name no time are taken for a service that is busy, with pauses
of about five minutes together. A further one is a failed attempt: an empty account may be refused
so."""

GEMINI_PAUSE_LONGEST_S: Final = 3600.0
"""Longest pause that the service may ask for: a gate is closed for no longer, and a task that waits
by itself fails at once where it is to wait longer. No limit of a minute or a day needs more."""

GEMINI_POLL_S: Final = 0.5
GEMINI_POLL_LONGEST_S: Final = 10.0
"""Wait between two looks at an uploaded file: half as long again each time, up to the longest."""

RAY_PARCEL_BYTES: Final = 4 * MIB
RAY_PARCEL_DEADLINE_S: Final = 0.1
RAY_PARCEL_LEAST_BYTES: Final = 4 * KIB
RAY_WINDOW: Final = 2
"""Parcels of one job that may be on their way from a cluster: full, or so old. An object costs Ray
much, whatever is in it: of the same 8 MiB four parcels were a fifth faster than eight, and two a
third faster than four. They shrink where many jobs share the budget."""
RAY_PARCELS_AT_ENDS: Final = 2
"""Parcels of one job beside those: the one that its agent makes, and the one that is carried."""

RAY_DISTANCE: Final = 10.0
"""The way of a job to a cluster and back takes so many times as long as to a worker here, some 10
ms: AHEAD_S, BRISK_S and RECALL_AFTER_S are so much longer there."""

RAY_TURN_S: Final = 0.2
RAY_RECALL_AFTER_S: Final = 0.05
"""A task on a cluster begins the jobs that it has been given for so long, and gives the others
back; at once when the running one takes longer than the second: no message reaches a task."""

RAY_RESULT_DEADLINE_S: Final = 0.02
"""The start of a job waits so long for its end, and that for those of the next ones, to be one
parcel with them: one takes Ray as long as twenty jobs that do nothing. After the last job of a task
it does not wait."""

RAY_LOOK_S: Final = 0.1
"""Longest wait of a task on a cluster for its worker, before it looks whether it was cancelled."""

RAY_START_S: Final = 120.0
"""Longest wait for a Ray to be started or joined."""

RAY_CANCEL_S: Final = 2.0
"""A job on a cluster that was cancelled has this time to end its worker, before Ray kills its
process; then the same again until nobody waits for it any more."""

RAY_STORE_BYTES: Final = 80 * MIB
"""What the object store of a Ray that is started here has beyond the budget; Ray's least is 75."""

RAY_DESCRIPTORS: Final = 512
"""Descriptors that this process may need beside one for each job on a cluster."""

RAY_TEMP_PATH_BYTES: Final = 43
"""Longest path of Ray's temp directory: it makes sockets below, whose paths are limited to 107
bytes."""

# -- run directories -----------------------------------------------------------------------------
RUN_NAME_TRIES: Final = 100
"""Tries to make a run directory that sweepers take away between its making and its lock."""

DIRECTORY_TRIES: Final = 3
"""Tries to make a file in a run directory that others remove each time, before that job fails."""

LOG_ROOM_BYTES: Final = 256 * MIB
"""With so much room on the disk a log reserves nothing when its job begins: two reservations and
their return were 0.2 ms of a job on ext4 (0007)."""

OWN_DIRECTORIES_IDLE: Final = 4
"""Run directories in as many roots that a process keeps without a file in them: each holds three
descriptors, and costs half a millisecond to make again."""

DISPOSE_PATIENCE_S: Final = 0.006
DISPOSE_PAUSE_S: Final = 0.002
"""For how long, and how often, a run directory that another process holds is tried again when it is
disposed of: `collector ls` holds each one for a few microseconds."""

# -- asking --------------------------------------------------------------------------------------
ASKING_BACKLOG: Final = 1024
"""Most connections that wait to be taken; the kernel may allow fewer (somaxconn)."""

ASKING_LIMIT: Final = 128
"""Most connections that a Collector holds of those who ask: the one that has been silent longest
makes room for the next."""

ASKING_PORTION: Final = 10
ASKING_PAUSE_S: Final = 0.02
"""After so many acts for those who ask the answering thread rests so long: 500 a second cost the
parent some hundredths of its time, and 1,000 who ask at once have their answers in 2 s."""

ASKING_DEADLINE_S: Final = 5.0
"""Longest time from a connection to its question, or for a reader to take some of an answer."""

ASKING_PATIENCE_S: Final = 3.0
"""Longest wait of the commands for one Collector, which may be stopped."""

ASKING_NEWS: Final = 256
"""Most pieces of news, each with a file that is open, that wait for one who follows."""

# -- the script ------------------------------------------------------------------------------------
SCRIPT_COMPARED_BYTES: Final = 64 * KIB
"""Largest pickle of a global that is compared by content: it is sent again when that has changed, a
larger one when it is another object. Design, section 7."""

SCRIPT_CALLS_KNOWN: Final = 1000
"""Most functions for which the parent remembers which parts of the script they need."""

# -- batch directories -----------------------------------------------------------------------------
LOOK_PATIENCE_S: Final = 1.0
LOOK_PAUSE_S: Final = 0.002
"""For how long, and how often, a shard is tried again that others only look at: `collector status`
and `report` hold the lock of one whose process was killed for a few microseconds."""

PACKED_BYTES: Final = 64 * KIB
"""An output, log or value of fewer bytes lies in a pack, a larger one in a file of its own."""

PACK_BYTES: Final = 1024 * MIB
"""Largest pack."""

TOLD_AFTER_S: Final = 1.0
"""Running time after which a job has a line in the journal before it ends."""

STORED_TOGETHER: Final = 64
"""Most jobs that are stored together: groups of 30 were synced 6 times as fast as each alone, and
without `durable` jobs of 1 KB are kept at twice the rate (docs/decisions/0020)."""

STORED_BYTES: Final = MIB
"""Small outputs, logs and values that are held until they are stored together."""

SYNCED_TOGETHER: Final = 64
"""Descriptors of large ones that wait, with `durable`, to be synced together; a job has up to 6."""
